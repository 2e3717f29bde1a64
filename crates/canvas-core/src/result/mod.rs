//! Results: what a client holds after it has sent a canvas.

mod graph;
mod group;
mod single;
mod tree;

pub use graph::{GraphNode, dot};
pub use group::GroupResult;
pub use single::{AsyncResult, Wait};
pub use tree::{Parent, ResultTree};
