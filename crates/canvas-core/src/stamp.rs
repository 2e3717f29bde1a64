//! Stamps: marks on every task of a canvas, which workers see in the request.

use serde_json::{Map, Value};

use crate::json::deep;
use crate::options::Options;
use crate::signature::{Shape, Signature};

/// Stamps by name.
pub type Stamps = Map<String, Value>;

/// Decides the stamps of each part of a canvas while it is walked.
///
/// Celery: `StampingVisitor`. A key `stamped_headers` in what is returned, a
/// list of names, restricts which of the other keys are stamps; the rest are
/// set as plain options.
pub trait StampingVisitor {
    /// The stamps of one task.
    fn on_signature(&mut self, task: &Signature) -> Stamps;

    /// Stamps for all of a group, asked before its members.
    fn on_group_start(&mut self, _group: &Signature) -> Stamps {
        Stamps::new()
    }

    /// Called after a group's members.
    fn on_group_end(&mut self, _group: &Signature) {}

    /// Stamps for all of a chain, asked before its steps.
    fn on_chain_start(&mut self, _chain: &Signature) -> Stamps {
        Stamps::new()
    }

    /// Called after a chain's steps.
    fn on_chain_end(&mut self, _chain: &Signature) {}

    /// Stamps for all of a chord's header, asked before its members: those of
    /// the header as a group, unless this says otherwise.
    fn on_chord_header_start(&mut self, chord: &Signature) -> Stamps {
        match &chord.shape {
            Shape::Chord(parts) => self.on_group_start(&parts.header),
            _ => Stamps::new(),
        }
    }

    /// Called after a chord's header.
    fn on_chord_header_end(&mut self, chord: &Signature) {
        if let Shape::Chord(parts) = &chord.shape {
            self.on_group_end(&parts.header);
        }
    }

    /// Stamps for all of a chord's body, asked before it.
    fn on_chord_body(&mut self, _chord: &Signature) -> Stamps {
        Stamps::new()
    }

    /// Stamps of a callback, besides those of the task.
    fn on_callback(&mut self, _callback: &Signature) -> Stamps {
        Stamps::new()
    }

    /// Stamps of an error callback, besides those of the task.
    fn on_errback(&mut self, _errback: &Signature) -> Stamps {
        Stamps::new()
    }
}

impl Signature {
    /// Puts stamps on every task of the canvas and its callbacks. As in
    /// Celery, a chord's body is left out here; a visitor stamps it as well.
    #[must_use]
    pub fn stamp<V: Into<Value>>(
        mut self,
        stamps: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Self {
        let stamps = stamps.into_iter().map(|(k, v)| (k.to_owned(), v.into()));
        walk(&mut self, &mut None, &named(stamps.collect()), false);
        self
    }

    /// As [`stamp`](Self::stamp), but a stamp that is there already is kept
    /// beside the new one, as a list with the newer first.
    #[must_use]
    pub fn append_stamp<V: Into<Value>>(
        mut self,
        stamps: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Self {
        let stamps = stamps.into_iter().map(|(k, v)| (k.to_owned(), v.into()));
        walk(&mut self, &mut None, &named(stamps.collect()), true);
        self
    }

    /// Puts the stamps on the canvas that a visitor decides.
    #[must_use]
    pub fn stamp_with(mut self, visitor: &mut dyn StampingVisitor) -> Self {
        walk(&mut self, &mut Some(visitor), &Stamps::new(), false);
        self
    }
}

const NAMES: &str = "stamped_headers";

/// Adds the list of names, if it is not there.
fn named(mut stamps: Stamps) -> Stamps {
    if !stamps.is_empty() && !stamps.contains_key(NAMES) {
        let names: Value = stamps.keys().cloned().collect();
        stamps.insert(NAMES.to_owned(), names);
    }
    stamps
}

type Visitor<'a, 'b> = Option<&'a mut (dyn StampingVisitor + 'b)>;

fn ask(
    visitor: &mut Visitor<'_, '_>,
    from: &Stamps,
    what: impl FnOnce(&mut dyn StampingVisitor) -> Stamps,
) -> Stamps {
    let mut all = from.clone();
    if let Some(visitor) = visitor {
        add(&mut all, named(what(&mut **visitor)));
    }
    all
}

fn walk(signature: &mut Signature, visitor: &mut Visitor<'_, '_>, stamps: &Stamps, append: bool) {
    deep(|| {
        let own = ask(visitor, stamps, |v| match &signature.shape {
            Shape::Chain(_) => v.on_chain_start(signature),
            Shape::Group(_) => v.on_group_start(signature),
            Shape::Chord(_) => v.on_chord_header_start(signature),
            Shape::Task | Shape::Custom(_) => v.on_signature(signature),
        });
        // The links of a task have what comes from above; those of a canvas
        // also have the canvas's own.
        let is_task = matches!(signature.shape, Shape::Task | Shape::Custom(_));
        let for_links = if is_task { stamps } else { &own };
        links(&mut signature.options, "link", visitor, for_links, append);
        links(
            &mut signature.options,
            "link_error",
            visitor,
            for_links,
            append,
        );
        match &mut signature.shape {
            Shape::Chain(tasks) | Shape::Group(tasks) => {
                for task in tasks {
                    walk(task, visitor, &own, append);
                }
            }
            Shape::Chord(parts) => {
                if let Shape::Group(tasks) = &mut parts.header.shape {
                    for task in tasks {
                        walk(task, visitor, &own, append);
                    }
                }
            }
            Shape::Task | Shape::Custom(_) => set(&mut signature.options, own.clone(), append),
        }
        let Some(v) = visitor else { return };
        match &signature.shape {
            Shape::Chain(_) => v.on_chain_end(signature),
            Shape::Group(_) => v.on_group_end(signature),
            Shape::Chord(_) => v.on_chord_header_end(signature),
            Shape::Task | Shape::Custom(_) => {}
        }
        if matches!(signature.shape, Shape::Chord(_)) {
            let for_body = ask(visitor, &own, |v| v.on_chord_body(signature));
            if let Shape::Chord(parts) = &mut signature.shape
                && let Some(body) = &mut parts.body
            {
                walk(body, visitor, &for_body, append);
            }
        }
    });
}

fn links(
    options: &mut Options,
    key: &str,
    visitor: &mut Visitor<'_, '_>,
    stamps: &Stamps,
    append: bool,
) {
    let found = if key == "link" {
        options.links()
    } else {
        options.error_links()
    };
    let Ok(mut found) = found else { return };
    if found.is_empty() {
        return;
    }
    for link in &mut found {
        let own = ask(visitor, stamps, |v| {
            if key == "link" {
                v.on_callback(link)
            } else {
                v.on_errback(link)
            }
        });
        walk(link, visitor, &own, append);
    }
    let list: Value = found.into_iter().map(Value::from).collect();
    options.set(key, list);
}

/// Sets stamps as options.
fn set(options: &mut Options, stamps: Stamps, append: bool) {
    let Some(Value::Array(names)) = stamps.get(NAMES).cloned() else {
        return;
    };
    for (key, value) in stamps {
        if key == NAMES {
            continue;
        }
        let is_stamp = options.stamped_headers().contains(&key);
        let old = options.get(&key).filter(|_| is_stamp).cloned();
        let value = match old {
            Some(old) if append || (value.is_array() && old.is_array()) => both(value, old),
            _ => value,
        };
        options.set(&key, value);
    }
    for name in names {
        options.append_unique(NAMES, name);
    }
}

/// Two values of one stamp as one list.
fn both(first: Value, second: Value) -> Value {
    let list = |value| match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    let mut all = list(first);
    all.extend(list(second));
    Value::Array(all)
}

/// Adds stamps to those from further up, which stand. As in Celery, lists are
/// joined.
fn add(stamps: &mut Stamps, more: Stamps) {
    for (key, value) in more {
        let merged = match stamps.remove(&key) {
            Some(first) if first.is_array() && value.is_array() => both(first, value),
            Some(first) => first,
            None => value,
        };
        stamps.insert(key, merged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chord, group};
    use serde_json::json;

    #[test]
    fn stamps_reach_every_task_and_its_callbacks() {
        let canvas =
            group([Signature::new("a").link(Signature::new("b"))]).stamp([("user", "ann")]);
        let Shape::Group(members) = &canvas.shape else {
            panic!("not a group")
        };
        let a = &members[0];
        assert_eq!(a.options.stamped_headers(), ["user"]);
        let b = &a.options.links().unwrap()[0];
        assert_eq!(b.options.get("user"), Some(&json!("ann")));
    }

    #[test]
    fn a_stamp_is_replaced_or_appended_to() {
        let once = Signature::new("a").stamp([("n", 1)]);
        let twice = once.clone().stamp([("n", 2)]);
        assert_eq!(twice.options.get("n"), Some(&json!(2)));
        let both = once.append_stamp([("n", 2)]);
        assert_eq!(both.options.get("n"), Some(&json!([2, 1])));
    }

    struct ByName;

    impl StampingVisitor for ByName {
        fn on_signature(&mut self, task: &Signature) -> Stamps {
            Stamps::from_iter([("by".to_owned(), json!(task.task))])
        }
    }

    #[test]
    fn a_visitor_stamps_a_chords_body_too() {
        let canvas = chord([Signature::new("a")], Signature::new("b")).stamp_with(&mut ByName);
        let Shape::Chord(parts) = &canvas.shape else {
            panic!("not a chord")
        };
        let body = parts.body.as_ref().unwrap();
        assert_eq!(body.options.get("by"), Some(&json!("b")));
    }
}
