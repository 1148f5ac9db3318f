//! JSON form of a SQLite value.
//!
//! Integers travel as strings because JSON numbers lose bits; the official parsers borrow the integer and base64
//! strings, so neither may contain a JSON escape: decimal digits and the standard alphabet never do.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Error as _, Serialize, SerializeStruct, Serializer};

use crate::record::Value;

/// Writes without padding, reads with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why `value` has no JSON form, if it has none.
pub(super) fn obstacle(value: &Value) -> Option<&'static str> {
    match value {
        Value::Real(r) if !r.is_finite() => Some("an infinite number has no JSON form"),
        Value::Text(t) if std::str::from_utf8(t).is_err() => Some("text that is not UTF-8 has no JSON form"),
        _ => None,
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(reason) = obstacle(self) {
            return Err(S::Error::custom(reason));
        }
        let mut out = serializer.serialize_struct("Value", 2)?;
        match self {
            Value::Null => out.serialize_field("type", "null")?,
            Value::Integer(i) => {
                out.serialize_field("type", "integer")?;
                out.serialize_field("value", &i.to_string())?;
            }
            Value::Real(r) => {
                out.serialize_field("type", "float")?;
                out.serialize_field("value", r)?;
            }
            Value::Text(t) => {
                out.serialize_field("type", "text")?;
                out.serialize_field("value", std::str::from_utf8(t).map_err(S::Error::custom)?)?;
            }
            Value::Blob(b) => {
                out.serialize_field("type", "blob")?;
                out.serialize_field("base64", &BASE64.encode(b))?;
            }
        }
        out.end()
    }
}

/// The `value` key: a string or a number, depending on the type.
enum Scalar {
    Text(String),
    Float(f64),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a number")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(v.to_owned()))
            }
            fn visit_string<E: de::Error>(self, v: String) -> Result<Scalar, E> {
                Ok(Scalar::Text(v))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(v))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Scalar, E> {
                Ok(Scalar::Float(v as f64))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Scalar, E> {
                Ok(Scalar::Float(v as f64))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

#[derive(serde::Deserialize)]
struct RawValue {
    #[serde(rename = "type")]
    kind: String,
    value: Option<Scalar>,
    base64: Option<String>,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawValue::deserialize(deserializer)?;
        match (raw.kind.as_str(), raw.value, raw.base64) {
            ("null", _, _) => Ok(Value::Null),
            ("integer", Some(Scalar::Text(text)), _) => text
                .parse()
                .map(Value::Integer)
                .map_err(|_| de::Error::custom("an integer value is not a 64-bit decimal number")),
            ("float", Some(Scalar::Float(v)), _) => Ok(Value::Real(v)),
            ("text", Some(Scalar::Text(text)), _) => Ok(Value::Text(text.into_bytes())),
            ("blob", _, Some(text)) => BASE64
                .decode(text)
                .map(Value::Blob)
                .map_err(|_| de::Error::custom("a blob value is not base64")),
            (kind @ ("integer" | "float" | "text" | "blob"), _, _) => {
                Err(de::Error::custom(format_args!("malformed value of type {kind}")))
            }
            _ => Err(de::Error::custom("unknown value type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(v: &Value) -> String {
        serde_json::to_string(v).unwrap()
    }

    fn parse(text: &str) -> Result<Value, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn literal_forms() {
        for (value, text) in [
            (Value::Null, r#"{"type":"null"}"#),
            (
                Value::Integer(i64::MIN),
                r#"{"type":"integer","value":"-9223372036854775808"}"#,
            ),
            (Value::Real(3.0), r#"{"type":"float","value":3.0}"#),
            (Value::Real(1.5), r#"{"type":"float","value":1.5}"#),
            (
                Value::Text(b"a\0\"b".to_vec()),
                r#"{"type":"text","value":"a\u0000\"b"}"#,
            ),
            (Value::Blob(vec![1, 2]), r#"{"type":"blob","base64":"AQI"}"#),
            (Value::Blob(vec![]), r#"{"type":"blob","base64":""}"#),
        ] {
            assert_eq!(json(&value), text);
            assert_eq!(parse(text).unwrap(), value);
        }
    }

    #[test]
    fn what_is_tolerated_and_what_is_not() {
        assert_eq!(
            parse(r#"{"type":"blob","base64":"AQI="}"#).unwrap(),
            Value::Blob(vec![1, 2])
        );
        assert_eq!(
            parse(r#"{"value":"7","type":"integer","x":[1]}"#).unwrap(),
            Value::Integer(7)
        );
        assert_eq!(parse(r#"{"type":"float","value":3}"#).unwrap(), Value::Real(3.0));
        assert_eq!(parse(r#"{"type":"null","value":null}"#).unwrap(), Value::Null);
        for bad in [
            r#"{"type":"integer","value":7}"#,
            r#"{"type":"integer","value":"9223372036854775808"}"#,
            r#"{"type":"float","value":null}"#,
            r#"{"type":"float","value":"1"}"#,
            r#"{"type":"text"}"#,
            r#"{"type":"blob","base64":"!"}"#,
            r#"{"type":"date","value":"x"}"#,
            r#"{}"#,
            "7",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_without_a_json_form() {
        for value in [
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Text(vec![0xff]),
        ] {
            assert!(serde_json::to_string(&value).is_err());
        }
    }

    proptest! {
        #[test]
        fn doubles_keep_every_bit(bits in any::<u64>()) {
            let v = f64::from_bits(bits);
            prop_assume!(v.is_finite());
            let back = parse(&json(&Value::Real(v))).unwrap();
            prop_assert!(matches!(back, Value::Real(r) if r.to_bits() == bits));
        }

        #[test]
        fn texts_and_blobs_round_trip(text in ".*", blob in proptest::collection::vec(any::<u8>(), 0..100)) {
            let text = Value::Text(text.into_bytes());
            prop_assert_eq!(parse(&json(&text)).unwrap(), text);
            let blob = Value::Blob(blob);
            prop_assert_eq!(parse(&json(&blob)).unwrap(), blob);
        }
    }
}
