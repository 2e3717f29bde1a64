//! The fields of a message that most messages have none of.

use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// A JSON object, used like its map. Without fields, as it most often is, it
/// takes a single word: queues hold messages by the million.
#[derive(Debug, Clone, Default)]
pub struct Fields(Option<Box<Map<String, Value>>>);

impl Deref for Fields {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Fields {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.get_or_insert_default()
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(map: Map<String, Value>) -> Self {
        Self((!map.is_empty()).then(|| Box::new(map)))
    }
}

impl FromIterator<(String, Value)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(fields: I) -> Self {
        Map::from_iter(fields).into()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        // One that was emptied is the same as one that never had any.
        **self == **other
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fields_are_one_word_and_an_empty_object() {
        assert_eq!(size_of::<Fields>(), size_of::<usize>());
        let mut fields = Fields::default();
        assert_eq!(serde_json::to_string(&fields).unwrap(), "{}");
        assert_eq!(fields, Fields::from(Map::new()));
        fields.insert("a".to_owned(), Value::from(1));
        assert_eq!(serde_json::to_string(&fields).unwrap(), r#"{"a":1}"#);
        assert_ne!(fields, Fields::default());
        fields.clear();
        assert_eq!(fields, Fields::default());
    }
}
