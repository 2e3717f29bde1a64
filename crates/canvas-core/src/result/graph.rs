//! The graph of a canvas, as far as it has run.

use std::collections::HashMap;
use std::fmt::Write;

use petgraph::graph::{DiGraph, NodeIndex};

use super::{AsyncResult, ResultTree};
use crate::error::Result;
use crate::id::Id;
use crate::protocol::TaskMeta;
use crate::state::State;

/// A task in the graph of a canvas.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphNode {
    /// The id.
    pub id: Id,
    /// The state at the time of asking.
    pub state: State,
    /// The task's name, where results are stored with it (`result_extended`).
    pub name: Option<String>,
}

/// A graph under construction: nodes by id, edges once.
#[derive(Default)]
struct Builder {
    graph: DiGraph<GraphNode, ()>,
    nodes: HashMap<Id, NodeIndex>,
    open: Vec<Id>,
}

impl Builder {
    fn node(&mut self, id: &Id) -> NodeIndex {
        if let Some(index) = self.nodes.get(id) {
            return *index;
        }
        let index = self.graph.add_node(GraphNode {
            id: id.clone(),
            state: State::Pending,
            name: None,
        });
        self.nodes.insert(id.clone(), index);
        self.open.push(id.clone());
        index
    }

    fn edge(&mut self, from: &Id, to: &Id) {
        let (from, to) = (self.node(from), self.node(to));
        self.graph.update_edge(from, to, ());
    }

    /// Every task of a tree, each after what ran before it.
    fn tree(&mut self, tree: &ResultTree) {
        for node in tree.nodes() {
            if node.members.is_none() {
                self.node(&node.id);
            }
            let Some(parent) = &node.parent else { continue };
            for before in parent.leaves() {
                for after in firsts(node) {
                    self.edge(&before.id, &after);
                }
            }
        }
    }
}

/// The tasks of a node that run when what was before it is done.
fn firsts(node: &ResultTree) -> Vec<Id> {
    match &node.members {
        None => vec![node.id.clone()],
        Some(members) => members
            .iter()
            .flat_map(|member| {
                let mut first = member;
                while let Some(parent) = &first.parent {
                    first = parent;
                }
                firsts(first)
            })
            .collect(),
    }
}

impl AsyncResult {
    /// The tasks of the canvas as a graph: what the client knows from the
    /// result tree, and what the tasks have sent since.
    ///
    /// # Errors
    /// The backend's error.
    pub async fn graph(&self) -> Result<DiGraph<GraphNode, ()>> {
        let mut builder = Builder::default();
        builder.tree(self.tree());
        while !builder.open.is_empty() {
            let ids = std::mem::take(&mut builder.open);
            let metas = self.app().backend().load(&ids).await?;
            for (id, meta) in ids.iter().zip(metas) {
                let Some(meta) = meta else { continue };
                let children = meta.children.clone().unwrap_or_default();
                let index = builder.node(id);
                if let Some(node) = builder.graph.node_weight_mut(index) {
                    describe(node, meta);
                }
                for child in children {
                    builder.tree(&child);
                    for first in roots(&child) {
                        builder.edge(id, &first);
                    }
                }
            }
        }
        Ok(builder.graph)
    }
}

/// The tasks of a child that its parent sent itself.
fn roots(child: &ResultTree) -> Vec<Id> {
    let mut first = child;
    while let Some(parent) = &first.parent {
        first = parent;
    }
    firsts(first)
}

fn describe(node: &mut GraphNode, meta: TaskMeta) {
    node.state = meta.status;
    let name = meta.extended.get("name").and_then(|n| n.as_str());
    node.name = name.map(str::to_owned);
}

/// A graph as DOT, in the colours that Celery draws with, with the state in
/// each node. `root` is the id that the picture is about.
pub fn dot(graph: &DiGraph<GraphNode, ()>, root: &Id) -> String {
    const SCHEME: &str =
        r#"shape="oval", arrowhead="vee", style="filled", fontname="HelveticaNeue""#;
    let mut out = String::from("digraph dependencies {\n");
    let _ = writeln!(
        out,
        "    graph [{SCHEME}, bgcolor=\"mintcream\", root=\"{}\"]",
        quoted(root.as_str())
    );
    for index in graph.node_indices() {
        let node = &graph[index];
        let (fill, line) = match node.state {
            State::Failure | State::Revoked => ("salmon", "firebrick"),
            State::Success => ("palegreen3", "palegreen4"),
            _ => ("palegreen1", "palegreen2"),
        };
        let label = match &node.name {
            Some(name) => vec![name, node.id.as_str(), node.state.as_str()],
            None => vec![node.id.as_str(), node.state.as_str()],
        };
        let label: Vec<String> = label.into_iter().map(quoted).collect();
        let _ = writeln!(
            out,
            "    \"{}\" [{SCHEME}, label=\"{}\", fillcolor=\"{fill}\", color=\"{line}\"]",
            quoted(node.id.as_str()),
            label.join("\\n"),
        );
    }
    for edge in graph.edge_indices() {
        if let Some((from, to)) = graph.edge_endpoints(edge) {
            let _ = writeln!(
                out,
                "    \"{}\" -> \"{}\" [{SCHEME}, color=\"darkseagreen4\", arrowcolor=\"black\", arrowsize=\"0.7\"]",
                quoted(graph[from].id.as_str()),
                quoted(graph[to].id.as_str())
            );
        }
    }
    out.push_str("}\n");
    out
}

/// Text as it stands between the quotes of DOT.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
