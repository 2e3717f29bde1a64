//! Random canvases, and what they must give.
//!
//! [`Node`] is a canvas as a person would write it. [`evaluate`] says what it
//! gives, by plain recursion; [`Node::signature`] builds the real thing.

use async_trait::async_trait;
use canvas::{
    Arguments, Ctx, ExceptionInfo, Id, Primitive, Signature, Task, TaskError, chain, chord, group,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A canvas as it is written.
#[derive(Debug, Clone)]
pub enum Node {
    /// One task.
    Leaf(Leaf),
    /// Steps.
    Chain(Vec<Node>),
    /// Members.
    Group(Vec<Node>),
    /// A header and a body.
    Chord(Vec<Node>, Box<Node>),
}

/// One task, and how it behaves.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Tells it from others.
    pub label: u32,
    /// What it does.
    pub does: Does,
    /// Whether it takes nothing from the step before.
    pub immutable: bool,
    /// Whether its result is dropped.
    pub ignored: bool,
    /// The label of a callback.
    pub link: Option<u32>,
}

/// What a task does.
#[derive(Debug, Clone)]
pub enum Does {
    /// Returns a digest of its label and arguments.
    Succeed,
    /// Fails, naming its label.
    Fail,
    /// Succeeds when it is tried the second time.
    Retry,
    /// Is replaced by a canvas.
    Replace(Box<Node>),
    /// Is a primitive that expands to a canvas.
    Expand(Box<Node>),
}

/// What a result must be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The value, or the labels of the failures that may have caused this one.
    pub value: Result<Value, Vec<String>>,
    /// Members of a group.
    pub members: Option<Vec<Expected>>,
    /// What ran before.
    pub parent: Option<Box<Expected>>,
    /// Whether it is not stored.
    pub ignored: bool,
}

/// A task that returns a digest of what it was given: `t.tick`.
#[derive(Debug, Default)]
pub struct Tick;

/// A task that is replaced by the canvas it is given: `t.replace`.
#[derive(Debug, Default)]
pub struct Replace;

/// A primitive that expands to the canvas it is given: `t.expand`.
#[derive(Debug, Default)]
pub struct Expand;

/// What [`Tick`] returns. Workers in Python compute the same, so it is FNV-1a
/// of JSON: see `tests/interop/canvases.py`.
fn digest(label: &Value, args: &[Value]) -> Value {
    let text = json!([label, args]).to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    json!(format!("{label}:{hash:016x}"))
}

#[async_trait]
impl Task for Tick {
    fn name(&self) -> &str {
        "t.tick"
    }

    async fn run(&self, ctx: Ctx, call: Arguments) -> Result<Value, TaskError> {
        let label = &call.kwargs["label"];
        match call.kwargs.get("does").and_then(Value::as_str) {
            Some("fail") => Err(TaskError::failed(ExceptionInfo::builtin(
                "ValueError",
                format!("boom-{label}-"),
            ))),
            Some("retry") if ctx.retries() == 0 => {
                Err(ctx.retry().countdown(std::time::Duration::ZERO).into())
            }
            _ => Ok(digest(label, &call.args)),
        }
    }
}

#[async_trait]
impl Task for Replace {
    fn name(&self) -> &str {
        "t.replace"
    }

    async fn run(&self, ctx: Ctx, call: Arguments) -> Result<Value, TaskError> {
        Err(ctx.replace(Signature::from_value(call.kwargs["canvas"].clone())?))
    }
}

impl Primitive for Expand {
    fn subtask_type(&self) -> &str {
        "t.expand"
    }

    fn expand(&self, call: Arguments) -> Result<Signature, TaskError> {
        Ok(Signature::from_value(call.kwargs["canvas"].clone())?)
    }
}

/// A random canvas, up to five levels deep, not counting those that tasks are
/// replaced by.
pub fn node() -> impl Strategy<Value = Node> {
    canvas_of(leaf(true).boxed(), 5, 40)
}

/// A random canvas whose tasks are replaced by nothing: one that any worker
/// can run, whatever primitives it knows.
pub fn still_node() -> impl Strategy<Value = Node> {
    canvas_of(leaf(false).boxed(), 5, 40)
}

/// Canvases of these leaves.
fn canvas_of(leaf: BoxedStrategy<Node>, depth: u32, size: u32) -> BoxedStrategy<Node> {
    leaf.prop_recursive(depth, size, 4, |inner| {
        let some = || prop::collection::vec(inner.clone(), 1..4);
        let perhaps_none = || prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            3 => some().prop_map(Node::Chain),
            2 => perhaps_none().prop_map(Node::group),
            3 => (perhaps_none(), inner).prop_map(|(header, body)| Node::chord(header, body)),
        ]
    })
    .boxed()
}

/// A task; `dynamic` ones may be replaced by small canvases.
fn leaf(dynamic: bool) -> impl Strategy<Value = Node> {
    let small = if dynamic {
        canvas_of(leaf(false).boxed(), 3, 8)
    } else {
        Just(Node::Group(Vec::new())).boxed()
    };
    let small = small.prop_map(Box::new).boxed();
    let weight = if dynamic { 1 } else { 0 };
    let does = prop_oneof![
        12 => Just(Does::Succeed),
        2 => Just(Does::Fail),
        1 => Just(Does::Retry),
        weight => small.clone().prop_map(Does::Replace),
        weight => small.prop_map(Does::Expand),
    ];
    let rarely = || prop::bool::weighted(0.1);
    let link = prop::option::weighted(0.1, any::<u32>());
    (any::<u32>(), does, rarely(), rarely(), link).prop_map(
        |(label, does, immutable, ignored, link)| {
            Node::Leaf(Leaf {
                label,
                does,
                immutable,
                ignored,
                link,
            })
        },
    )
}

impl Node {
    /// A group that may be empty, but has no empty canvases in it.
    fn group(mut members: Vec<Node>) -> Self {
        members.retain(|member| !member.is_empty());
        Node::Group(members)
    }

    /// A chord; without a body it is its header.
    fn chord(header: Vec<Node>, body: Node) -> Self {
        if body.is_empty() {
            Node::group(header)
        } else {
            Node::Chord(header, Box::new(body))
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Leaf(_) | Node::Chord(..) => false,
            Node::Chain(nodes) | Node::Group(nodes) => nodes.iter().all(Node::is_empty),
        }
    }

    /// How many members it has, where `|` sees a group.
    fn width(&self) -> Option<usize> {
        match self {
            Node::Leaf(_) | Node::Chord(..) => None,
            Node::Group(members) => match members.as_slice() {
                [only] => only
                    .width()
                    .filter(|_| matches!(only, Node::Group(_)))
                    .or(Some(1)),
                members => Some(members.len()),
            },
            Node::Chain(steps) => {
                let mut steps = steps.iter().filter(|step| !step.is_empty());
                let only = steps.next().filter(|_| steps.next().is_none())?;
                only.width().filter(|width| *width > 1)
            }
        }
    }

    /// The real canvas.
    pub fn signature(&self) -> Signature {
        let all = |nodes: &[Node]| nodes.iter().map(Node::signature).collect::<Vec<_>>();
        match self {
            Node::Leaf(leaf) => leaf.signature(),
            Node::Chain(steps) => chain(all(steps)),
            Node::Group(members) => group(all(members)),
            Node::Chord(header, body) => chord(all(header), body.signature()),
        }
    }
}

impl Leaf {
    fn signature(&self) -> Signature {
        let tick = |does: &str| {
            Signature::new("t.tick")
                .kwarg("label", self.label)
                .kwarg("does", does)
        };
        let mut signature = match &self.does {
            Does::Succeed => tick("succeed"),
            Does::Fail => tick("fail"),
            Does::Retry => tick("retry"),
            Does::Replace(inner) => Signature::new("t.replace").kwarg("canvas", inner.signature()),
            Does::Expand(inner) => Expand.signature().kwarg("canvas", inner.signature()),
        };
        signature.immutable = self.immutable;
        if self.ignored {
            signature = signature.ignore_result(true);
        }
        if let Some(label) = self.link {
            let callback = Signature::new("t.tick")
                .kwarg("label", label)
                .task_id(callback_id(label));
            signature = signature.link(callback);
        }
        signature
    }
}

/// Callbacks are told apart by their label, which is random and so unique.
fn callback_id(label: u32) -> Id {
    Id::from(format!("callback-{label}"))
}

/// A canvas as a sequence, with everything spliced that is spliced.
#[derive(Debug, Clone)]
enum Step {
    Leaf(Leaf),
    /// Members, each a sequence.
    Side(Vec<Vec<Step>>),
    /// A header and a body.
    Join(Vec<Vec<Step>>, Vec<Step>),
}

/// What each result of a canvas must be, and of its callbacks.
pub fn evaluate(node: &Node) -> (Expected, Vec<(Id, Expected)>) {
    let mut callbacks = Vec::new();
    let expected = run(&whole(node), &Input::Start, &mut callbacks);
    (expected, callbacks)
}

/// A canvas that stands by itself: there, a group of one chain that ends in a
/// group is that chain.
fn whole(node: &Node) -> Vec<Step> {
    whole_of(sequence(node))
}

fn whole_of(steps: Vec<Step>) -> Vec<Step> {
    if let [Step::Side(members)] = steps.as_slice()
        && let [only] = members.as_slice()
        && matches!(only.last(), Some(Step::Side(_)))
    {
        return only.clone();
    }
    steps
}

fn sequence(node: &Node) -> Vec<Step> {
    match node {
        Node::Leaf(leaf) => vec![Step::Leaf(leaf.clone())],
        Node::Chain(nodes) => {
            let mut before: Vec<&Node> = Vec::new();
            let mut steps = Vec::new();
            for node in nodes.iter().filter(|node| !node.is_empty()) {
                // A group that is all there is before keeps what follows it
                // as it is; else a group of one is its member.
                let after_group =
                    matches!(before[..], [only] if only.width().is_some_and(|width| width > 1));
                match (sequence(node), after_group) {
                    (kept, true) if node.width() == Some(1) => steps.extend(whole_of(kept)),
                    (other, _) => steps.extend(unrolled(other)),
                }
                before.push(node);
            }
            if steps.is_empty() {
                steps.push(Step::Side(Vec::new()));
            }
            steps
        }
        Node::Group(nodes) => vec![Step::Side(side_by_side(nodes))],
        Node::Chord(header, body) => {
            vec![Step::Join(side_by_side(header), whole(body))]
        }
    }
}

/// In a chain, a group of one is its member.
fn unrolled(steps: Vec<Step>) -> Vec<Step> {
    if let [Step::Side(members)] = steps.as_slice()
        && let [only] = members.as_slice()
    {
        return only.clone();
    }
    steps
}

/// Groups in a group are flattened.
fn side_by_side(nodes: &[Node]) -> Vec<Vec<Step>> {
    let mut members = Vec::new();
    for node in nodes {
        let steps = sequence(node);
        match steps.as_slice() {
            [] => {}
            [Step::Side(inner)] => members.extend(inner.clone()),
            _ => members.push(steps),
        }
    }
    members
}

/// What a step is given.
#[derive(Debug, Clone)]
enum Input {
    /// Nothing: it is the first.
    Start,
    Value(Value),
    /// It will not run, because of one of these.
    Failed(Vec<String>),
}

/// Runs a sequence. The result is that of the last step, with what was before
/// it as its line of parents.
fn run(steps: &[Step], input: &Input, callbacks: &mut Vec<(Id, Expected)>) -> Expected {
    let mut input = input.clone();
    let mut before: Option<Expected> = None;
    for (i, step) in steps.iter().enumerate() {
        let mut here = match step {
            Step::Leaf(leaf) => run_leaf(leaf, &input, callbacks),
            Step::Side(members) => run_side(members, &input, callbacks),
            Step::Join(header, body) => {
                let header = run_side(header, &input, callbacks);
                let mut body = run(body, &arrivals(&header), callbacks);
                hang(&mut body, header);
                body
            }
        };
        input = match (step, i + 1 == steps.len()) {
            // A group that is followed by something is a header.
            (Step::Side(_), false) => arrivals(&here),
            _ => output(&here),
        };
        if let Some(before) = before {
            hang(&mut here, before);
        }
        before = Some(here);
    }
    before.expect("no canvas here is empty")
}

fn run_leaf(leaf: &Leaf, input: &Input, callbacks: &mut Vec<(Id, Expected)>) -> Expected {
    let value = match input {
        Input::Failed(causes) => Err(causes.clone()),
        _ => match &leaf.does {
            Does::Succeed | Does::Retry => {
                let args = match input {
                    Input::Value(value) if !leaf.immutable => vec![value.clone()],
                    _ => Vec::new(),
                };
                Ok(digest(&json!(leaf.label), &args))
            }
            Does::Fail => Err(vec![format!("boom-{}-", leaf.label)]),
            Does::Replace(inner) | Does::Expand(inner) => {
                let inner = run(&whole(inner), &Input::Start, callbacks);
                match (&inner.members, arrivals(&inner)) {
                    (None, _) => inner.value,
                    (Some(_), Input::Failed(causes)) => Err(causes),
                    (Some(_), Input::Value(value)) => Ok(value),
                    (Some(_), Input::Start) => unreachable!("arrivals give a value or an error"),
                }
            }
        },
    };
    if let Some(label) = leaf.link {
        let result = match &value {
            Ok(value) => Ok(digest(&json!(label), std::slice::from_ref(value))),
            Err(causes) => Err(causes.clone()),
        };
        callbacks.push((callback_id(label), task(result, false)));
    }
    task(value, leaf.ignored)
}

fn run_side(members: &[Vec<Step>], input: &Input, callbacks: &mut Vec<(Id, Expected)>) -> Expected {
    let members: Vec<Expected> = members
        .iter()
        .map(|steps| run(steps, input, callbacks))
        .collect();
    Expected {
        // Counts where there are no members to tell.
        value: match input {
            Input::Failed(causes) => Err(causes.clone()),
            _ => Ok(Value::Null),
        },
        members: Some(members),
        parent: None,
        ignored: false,
    }
}

fn task(value: Result<Value, Vec<String>>, ignored: bool) -> Expected {
    Expected {
        value,
        members: None,
        parent: None,
        ignored,
    }
}

/// What a chord's body gets from this header: the results of the members in
/// order, those of a group in it as a list.
fn arrivals(header: &Expected) -> Input {
    let mut values = Vec::new();
    let mut causes = Vec::new();
    // The list of the header itself.
    collect(header, &mut values, &mut causes);
    if causes.is_empty() {
        Input::Value(values.pop().unwrap_or_default())
    } else {
        Input::Failed(causes)
    }
}

fn collect(node: &Expected, values: &mut Vec<Value>, causes: &mut Vec<String>) {
    match (&node.members, &node.value) {
        (Some(members), Err(failed)) if members.is_empty() => causes.extend(failed.clone()),
        (Some(members), _) => {
            let mut inner = Vec::new();
            for member in members {
                collect(member, &mut inner, causes);
            }
            values.push(Value::Array(inner));
        }
        (None, Ok(value)) => values.push(value.clone()),
        (None, Err(failed)) => causes.extend(failed.clone()),
    }
}

/// What the next step gets.
fn output(node: &Expected) -> Input {
    match &node.members {
        Some(_) => arrivals(node),
        None => match &node.value {
            Ok(value) => Input::Value(value.clone()),
            Err(causes) => Input::Failed(causes.clone()),
        },
    }
}

/// Hangs what ran before onto the first of a line of parents.
fn hang(node: &mut Expected, before: Expected) {
    match &mut node.parent {
        Some(parent) => hang(parent, before),
        None => node.parent = Some(Box::new(before)),
    }
}
