//! Text of one JSON object whose last key is the SHA-256 of all before it: a change of any byte is found.

use serde_json::Value;

use super::sha256_hex;

const TRAILER: &str = ",\n  \"sha256\": \"";
/// Digits of a hash.
const HASH: usize = 64;

/// What a text that may carry its hash turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// The object without its hash, exactly as it was written.
    Whole(String),
    /// It ends in no hash.
    Without,
    /// It ends in a hash, and not in its own.
    Broken,
}

/// JSON with the keys of every object in order, as it is stored, compared and hashed: serde_json keeps the order of writing where any
/// crate of the program asks for that.
pub fn sorted_json(value: Value) -> String {
    format!("{:#}", sorted(value))
}

/// The same value with the keys of every object in order.
pub fn sorted(mut value: Value) -> Value {
    value.sort_all_objects();
    value
}

/// The JSON object `text` (with at least one key) with its hash as the last key.
///
/// # Panics
/// Where `text` is not that of an object.
pub fn seal(text: &str) -> String {
    let Some(body) = text.trim_end().strip_suffix('}').map(str::trim_end) else {
        panic!("only the text of an object is sealed");
    };
    format!("{body}{TRAILER}{}\"\n}}\n", sha256_hex(body.as_bytes()))
}

/// The object in a text that [`seal`] made.
pub fn unseal(text: &str) -> Sealed {
    let Some((body, trailer)) = text.rsplit_once(TRAILER) else { return Sealed::Without };
    // What stands far from the end is a key of the object's own.
    if trailer.len() > 2 * HASH {
        return Sealed::Without;
    }
    match trailer == format!("{}\"\n}}\n", sha256_hex(body.as_bytes())) {
        true => Sealed::Whole(format!("{body}\n}}")),
        false => Sealed::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_object_is_json_and_is_read_back() {
        for text in ["{\"a\": 1}", "{\n  \"a\": 1\n}\n"] {
            let sealed = seal(text);
            let read: serde_json::Value = serde_json::from_str(&sealed).unwrap();
            assert_eq!((&read["a"], read["sha256"].as_str().unwrap().len()), (&1.into(), 64));
            let Sealed::Whole(body) = unseal(&sealed) else { panic!("{sealed}") };
            assert_eq!(body.split_whitespace().collect::<String>(), "{\"a\":1}");
        }
        assert_eq!(unseal("{\"a\": 1}"), Sealed::Without);
        let own_key = format!("{{\"a\": {{\n  \"b\": 1,\n  \"sha256\": \"00\"}}, \"c\": \"{}\"}}", "x".repeat(200));
        assert_eq!(unseal(&own_key), Sealed::Without);
        assert!(matches!(unseal(&seal(&own_key)), Sealed::Whole(_)));
    }

    #[test]
    fn no_change_of_one_byte_leaves_a_sealed_object_whole() {
        let sealed = seal("{\"a\": 1, \"text\": \"b\"}").into_bytes();
        for at in 0..sealed.len() {
            for flip in 1..8u8 {
                let mut changed = sealed.clone();
                changed[at] ^= flip;
                let Ok(text) = String::from_utf8(changed) else { continue };
                assert!(!matches!(unseal(&text), Sealed::Whole(_)), "byte {at}: {text}");
            }
        }
    }
}
