//! Arguments as Celery shows them in the `argsrepr` and `kwargsrepr` headers,
//! which Flower and `celery inspect` print: Python's `repr` within limits
//! (`celery.utils.saferepr`).

use serde_json::{Map, Value};

use super::repr;

/// How many characters are shown, give or take what closes them: Celery's
/// `argsrepr_maxsize`.
const MAX_LEN: usize = 1024;

/// How many containers are shown inside each other: Celery's
/// `task_repr_maxlevels`.
const MAX_LEVELS: usize = 3;

/// A tuple of arguments: `(1, 'a')`, `(1,)`, `()`.
pub(crate) fn args(values: &[Value]) -> String {
    let close = if values.len() == 1 { ",)" } else { ")" };
    let mut writer = Writer::default();
    writer.list("(", close, values);
    writer.out
}

/// A dict of keyword arguments: `{'x': 1}`.
pub(crate) fn kwargs(map: &Map<String, Value>) -> String {
    let mut writer = Writer::default();
    writer.map(map);
    writer.out
}

/// Writes token by token, and stops before the one for which there is no room.
struct Writer {
    out: String,
    /// Characters to go.
    room: usize,
    /// What closes the containers that are open.
    open: Vec<&'static str>,
    stopped: bool,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            out: String::new(),
            room: MAX_LEN,
            open: Vec::new(),
            stopped: false,
        }
    }
}

impl Writer {
    /// Whether there is room for one more token. If not, all that is open is
    /// closed.
    fn has_room(&mut self) -> bool {
        if self.room == 0 && !self.stopped {
            self.stopped = true;
            self.out.push_str(", ...");
            while let Some(close) = self.open.pop() {
                self.out.push_str(close);
            }
        }
        !self.stopped
    }

    fn put(&mut self, token: &str) {
        self.out.push_str(token);
        self.room = self.room.saturating_sub(token.chars().count());
    }

    /// A token that is shown whole.
    fn whole(&mut self, token: &str) {
        if self.has_room() {
            self.put(token);
        }
    }

    /// A token of which the beginning is shown, if there is no room for all.
    fn part(&mut self, token: &str) {
        if self.has_room() {
            let token = beginning(token, self.room);
            self.put(&token);
        }
    }

    fn quoted(&mut self, text: &str) {
        if self.has_room() {
            let text = beginning(text, self.room).replace('\'', "\\'");
            self.put(&format!("'{text}'"));
        }
    }

    fn open(&mut self, open: &str, close: &'static str) {
        if self.has_room() {
            self.put(open);
            self.open.push(close);
        }
    }

    /// Closes the container that was opened last, for which there is always room.
    fn close(&mut self) {
        if !self.stopped
            && let Some(close) = self.open.pop()
        {
            self.put(close);
        }
    }

    fn value(&mut self, value: &Value) {
        let deep = self.open.len() >= MAX_LEVELS;
        match value {
            Value::String(text) => self.quoted(text),
            Value::Array(_) if deep => self.whole("[...]"),
            Value::Object(_) if deep => self.whole("{...}"),
            Value::Array(items) => self.list("[", "]", items),
            Value::Object(map) => self.map(map),
            other => self.part(&repr::value(other)),
        }
    }

    fn list(&mut self, open: &str, close: &'static str, items: &[Value]) {
        self.open(open, close);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.whole(", ");
            }
            self.value(item);
            if self.stopped {
                return;
            }
        }
        self.close();
    }

    fn map(&mut self, map: &Map<String, Value>) {
        self.open("{", "}");
        for (i, (key, value)) in map.iter().enumerate() {
            if i > 0 {
                self.whole(", ");
            }
            self.quoted(key);
            self.whole(": ");
            self.value(value);
            if self.stopped {
                return;
            }
        }
        self.close();
    }
}

/// The text, or what there is room for, cut at a space where there is one.
fn beginning(text: &str, room: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(room.saturating_sub(1)) else {
        return text.to_owned();
    };
    let end = text[end..]
        .chars()
        .next()
        .map_or(end, |c| end + c.len_utf8());
    let cut = &text[..end];
    let cut = cut.rsplit_once(' ').map_or(cut, |(before, _)| before);
    format!("{cut}...")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shows_arguments_as_celery_does() {
        assert_eq!(args(&[json!(2), json!("it's")]), r"(2, 'it\'s')");
        assert_eq!(args(&[json!(null)]), "(None,)");
        assert_eq!(args(&[]), "()");
        assert_eq!(args(&[json!([[[[1]]]])]), "([[[...]]],)");
        let Value::Object(map) = json!({ "a": [true, 1.5], "b": {} }) else {
            panic!("not a map")
        };
        assert_eq!(kwargs(&map), "{'a': [True, 1.5], 'b': {}}");
    }

    #[test]
    fn long_arguments_are_cut_and_closed() {
        let long = args(&[json!("x".repeat(5000))]);
        assert_eq!(long.len(), "('".len() + 1023 + "...',)".len());
        let many = args(&vec![json!([1, 2]); 1000]);
        assert!(many.ends_with("[1, 2], , ...)"), "{many}");
        assert_eq!(many.len(), 1031);
    }
}
