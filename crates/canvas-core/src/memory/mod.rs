//! A broker and a backend that live in this process: the default, with nothing
//! to install, and the reference for what any other must do.

mod backend;
mod broker;
mod join;

pub use backend::MemoryBackend;
pub use broker::MemoryBroker;
