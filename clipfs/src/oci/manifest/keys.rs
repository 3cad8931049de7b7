//! Keys that tools read differently: Go's JSON decoder takes `Layers` for `layers`, and the last of several wins. One
//! document must not be two images, so what is not written exactly as the specification says is refused.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{NotAnImage, printable};

/// The keys of one kind of object, each with the shape of its value where that is known too.
pub(super) struct Shape(&'static [(&'static str, Option<&'static Shape>)]);

/// A manifest or a manifest list.
pub(super) static DOCUMENT: Shape = Shape(&[
    ("schemaVersion", None),
    ("mediaType", None),
    ("artifactType", None),
    ("config", Some(&DESCRIPTOR)),
    ("layers", Some(&DESCRIPTOR)),
    ("manifests", Some(&DESCRIPTOR)),
    ("fsLayers", None),
    ("blobs", None),
    ("subject", None),
    ("annotations", None),
]);

static DESCRIPTOR: Shape = Shape(&[
    ("mediaType", None),
    ("artifactType", None),
    ("digest", None),
    ("size", None),
    ("urls", None),
    ("data", None),
    ("platform", Some(&PLATFORM)),
    ("annotations", None),
]);

static PLATFORM: Shape = Shape(&[
    ("os", None),
    ("os.version", None),
    ("os.features", None),
    ("architecture", None),
    ("variant", None),
    ("features", None),
]);

/// An image config.
pub(super) static CONFIG: Shape = Shape(&[
    ("os", None),
    ("os.version", None),
    ("os.features", None),
    ("architecture", None),
    ("variant", None),
    ("config", None),
    ("history", None),
    ("rootfs", Some(&ROOTFS)),
]);

static ROOTFS: Shape = Shape(&[("type", None), ("diff_ids", None)]);

/// Refuses a document with a known key that is written otherwise or twice. `what` names the document.
pub(super) fn check(bytes: &[u8], what: &str, shape: &'static Shape) -> Result<(), NotAnImage> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    Walk(shape)
        .deserialize(&mut parser)
        .map_err(|e| NotAnImage(format!("{what}: {}", printable(&e.to_string()))))
}

/// Walks a value: an object, or objects in lists. Anything else has no keys.
#[derive(Clone, Copy)]
struct Walk(&'static Shape);

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Shape(known) = self.0;
        let mut seen = vec![false; known.len()];
        while let Some(key) = map.next_key::<String>()? {
            let Some(at) = known.iter().position(|(name, _)| folds_to(&key, name)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let (name, shape) = known[at];
            if key != name {
                return Err(A::Error::custom(format!(
                    "key {key:?} is {name:?} to some tools and not to others"
                )));
            }
            if std::mem::replace(&mut seen[at], true) {
                return Err(A::Error::custom(format!("key {name:?} stands twice in one object")));
            }
            match shape {
                Some(shape) => map.next_value_seed(Walk(shape))?,
                None => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Whether a key is a name but for case. By Unicode's simple folding two letters beyond ASCII are letters of ours.
fn folds_to(key: &str, name: &str) -> bool {
    let fold = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(name.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_two_meanings_are_refused() {
        for (shape, text, want) in [
            (&DOCUMENT, r#"{"layers":[],"x":{"Layers":1,"Layers":2},"annotations":{"a":"","A":""}}"#, None),
            (&DOCUMENT, r#"{"layers":[],"Layers":[]}"#, Some(r#"key "Layers" is "layers""#)),
            (&DOCUMENT, r#"{"LAYERS":[]}"#, Some("LAYERS")),
            (&DOCUMENT, r#"{"layer\u017f":[]}"#, Some("layerſ")),
            (&DOCUMENT, r#"{"layers":[],"layers":[]}"#, Some(r#"key "layers" stands twice"#)),
            (&DOCUMENT, r#"{"manifests":[{"digest":"a"},{"Digest":"a"}]}"#, Some("Digest")),
            (&DOCUMENT, r#"{"config":{"size":1,"SIZE":2}}"#, Some("SIZE")),
            (&DOCUMENT, r#"{"config":[[{"MediaType":""}]]}"#, Some("MediaType")),
            (&DOCUMENT, r#"{"manifests":[{"platform":{"OS":"linux"}}]}"#, Some("OS")),
            (&DOCUMENT, r#"{"manifests":[{"annotations":{"Digest":"","Digest":""}}]}"#, None),
            (&CONFIG, r#"{"os":"linux","Size":1,"config":{"Env":[],"env":[]}}"#, None),
            (&CONFIG, r#"{"rootfs":{"diff_ids":[],"Diff_IDs":[]}}"#, Some("Diff_IDs")),
            (&CONFIG, r#"{"rootfs":{"type":"layers","type":"x"}}"#, Some("twice")),
            (&CONFIG, r#"{"Rootfs":{}}"#, Some("Rootfs")),
            (&CONFIG, r#"{"architecture":"a","Architecture":"b"}"#, Some("Architecture")),
        ] {
            let found = check(text.as_bytes(), "it", shape);
            match want {
                None => assert_eq!(found, Ok(()), "{text}"),
                Some(want) => {
                    let error = found.expect_err(text);
                    assert!(error.0.contains(want), "{text}: {error}");
                }
            }
        }
        assert!(folds_to("\u{212a}ey", "key"));
        assert!(!folds_to("keys", "key"));
    }
}
