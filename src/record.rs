//! SQLite values and the SQLite record format (<https://www.sqlite.org/fileformat2.html#record_format>).
//!
//! The change log stores rows as records; replay turns them back into values. Every SQLite value survives the
//! round trip bit for bit, also text that is not UTF-8 and infinities.

use crate::error::{Error, Result};

/// One SQLite value. Text is bytes: SQLite does not promise that it is UTF-8.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// 64-bit signed integer.
    Integer(i64),
    /// IEEE double; never NaN, because SQLite stores NaN as NULL.
    Real(f64),
    /// Text in the database's encoding (UTF-8 here), possibly with NUL bytes or invalid sequences.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A value of a record, where it lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// SQL NULL.
    Null,
    /// 64-bit signed integer.
    Integer(i64),
    /// IEEE double.
    Real(f64),
    /// Text, see [`Value::Text`].
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl ValueRef<'_> {
    /// A copy of it.
    pub fn to_value(self) -> Value {
        match self {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(i) => Value::Integer(i),
            ValueRef::Real(r) => Value::Real(r),
            ValueRef::Text(t) => Value::Text(t.to_vec()),
            ValueRef::Blob(b) => Value::Blob(b.to_vec()),
        }
    }
}

/// Appends the SQLite variable-length integer of `v` (big-endian, 7 bits per byte, 9 bytes at most).
pub fn put_varint(out: &mut Vec<u8>, v: u64) {
    if v > 0x00ff_ffff_ffff_ffff {
        let high = v >> 8;
        for shift in (0..8).rev() {
            out.push(((high >> (7 * shift)) as u8 & 0x7f) | 0x80);
        }
        out.push(v as u8);
        return;
    }
    let groups = (64 - (v | 1).leading_zeros()).div_ceil(7);
    for group in (0..groups).rev() {
        let byte = (v >> (7 * group)) as u8 & 0x7f;
        out.push(if group > 0 { byte | 0x80 } else { byte });
    }
}

/// Reads a SQLite varint; returns the value and its length in bytes.
pub fn get_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut v = 0u64;
    for (i, &byte) in bytes.iter().take(9).enumerate() {
        if i == 8 {
            return Some((v << 8 | u64::from(byte), 9));
        }
        v = v << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((v, i + 1));
        }
    }
    None
}

/// Builds one record value by value without intermediate copies; reusable.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    header: Vec<u8>,
    body: Vec<u8>,
}

impl RecordBuilder {
    /// Appends NULL.
    pub fn null(&mut self) {
        self.header.push(0);
    }

    /// Appends an integer in its shortest form.
    pub fn integer(&mut self, v: i64) {
        let (serial, len) = match v {
            0 => (8, 0),
            1 => (9, 0),
            -0x80..=0x7f => (1, 1),
            -0x8000..=0x7fff => (2, 2),
            -0x80_0000..=0x7f_ffff => (3, 3),
            -0x8000_0000..=0x7fff_ffff => (4, 4),
            -0x8000_0000_0000..=0x7fff_ffff_ffff => (5, 6),
            _ => (6, 8),
        };
        self.header.push(serial);
        self.body.extend_from_slice(&v.to_be_bytes()[8 - len..]);
    }

    /// Appends a double.
    pub fn real(&mut self, v: f64) {
        self.header.push(7);
        self.body.extend_from_slice(&v.to_bits().to_be_bytes());
    }

    /// Appends text.
    pub fn text(&mut self, v: &[u8]) {
        put_varint(&mut self.header, 13 + 2 * v.len() as u64);
        self.body.extend_from_slice(v);
    }

    /// Appends a blob.
    pub fn blob(&mut self, v: &[u8]) {
        put_varint(&mut self.header, 12 + 2 * v.len() as u64);
        self.body.extend_from_slice(v);
    }

    /// Appends any value.
    pub fn value(&mut self, v: &Value) {
        match v {
            Value::Null => self.null(),
            Value::Integer(i) => self.integer(*i),
            Value::Real(r) => self.real(*r),
            Value::Text(t) => self.text(t),
            Value::Blob(b) => self.blob(b),
        }
    }

    /// Appends the finished record to `out` and empties the builder.
    pub fn finish_into(&mut self, out: &mut Vec<u8>) {
        // The header length counts itself; it needs a second byte from 127 serial bytes on.
        let mut total = self.header.len() as u64 + 1;
        let mut prefix = Vec::with_capacity(9);
        loop {
            prefix.clear();
            put_varint(&mut prefix, total);
            let wanted = self.header.len() as u64 + prefix.len() as u64;
            if wanted == total {
                break;
            }
            total = wanted;
        }
        out.extend_from_slice(&prefix);
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&self.body);
        self.header.clear();
        self.body.clear();
    }
}

/// Encodes `values` as one record.
pub fn encode(values: &[Value]) -> Vec<u8> {
    let mut builder = RecordBuilder::default();
    for v in values {
        builder.value(v);
    }
    let mut out = Vec::new();
    builder.finish_into(&mut out);
    out
}

/// Decodes one record. Malformed input is an error, never a panic.
pub fn decode(record: &[u8]) -> Result<Vec<Value>> {
    let (values, len) = decode_first(record)?;
    if len == record.len() {
        Ok(values)
    } else {
        Err(bad())
    }
}

fn bad() -> Error {
    Error::corrupt("malformed record in the change log")
}

/// Decodes the record at the beginning of `bytes`; also its length in bytes.
pub fn decode_first(bytes: &[u8]) -> Result<(Vec<Value>, usize)> {
    let mut values = Vec::new();
    let len = each_value(bytes, |value| {
        values.push(value.to_value());
        Ok(())
    })?;
    Ok((values, len))
}

/// Gives `on` the values of the record at the beginning of `bytes`, in order. Returns its length in bytes.
pub fn each_value<'a>(bytes: &'a [u8], mut on: impl FnMut(ValueRef<'a>) -> Result<()>) -> Result<usize> {
    let (header_len, mut at) = get_varint(bytes).ok_or_else(bad)?;
    let header_len = usize::try_from(header_len).map_err(|_| bad())?;
    if header_len > bytes.len() || header_len < at {
        return Err(bad());
    }
    let (header, mut body) = bytes.split_at(header_len);
    while at < header_len {
        let (serial, n) = get_varint(&header[at..]).ok_or_else(bad)?;
        at += n;
        let len = match serial {
            0 | 8 | 9 => 0,
            1..=4 => serial,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(bad()),
            _ => (serial - 12) / 2,
        };
        let len = usize::try_from(len).map_err(|_| bad())?;
        let (bytes, rest) = body.split_at_checked(len).ok_or_else(bad)?;
        body = rest;
        on(match serial {
            0 => ValueRef::Null,
            8 => ValueRef::Integer(0),
            9 => ValueRef::Integer(1),
            1..=6 => ValueRef::Integer(sign_extend(bytes)),
            7 => ValueRef::Real(f64::from_bits(sign_extend(bytes) as u64)),
            s if s % 2 == 0 => ValueRef::Blob(bytes),
            _ => ValueRef::Text(bytes),
        })?;
    }
    Ok(bytes.len() - body.len())
}

fn sign_extend(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let start = if negative { -1i64 } else { 0 };
    bytes.iter().fold(start, |v, &b| v << 8 | i64::from(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<i8>().prop_map(|v| Value::Integer(v.into())),
            any::<u64>().prop_map(|b| Value::Real(f64::from_bits(b))),
            proptest::collection::vec(any::<u8>(), 0..200).prop_map(Value::Text),
            proptest::collection::vec(any::<u8>(), 0..200).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip(values in proptest::collection::vec(value(), 0..200)) {
            let decoded = decode(&encode(&values)).unwrap();
            prop_assert_eq!(encode(&decoded), encode(&values));
            prop_assert_eq!(decoded.len(), values.len());
        }

        #[test]
        fn varints_round_trip(v in any::<u64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, v);
            prop_assert_eq!(get_varint(&out), Some((v, out.len())));
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn edges_of_integers_and_varints() {
        for v in [
            0,
            1,
            -1,
            127,
            128,
            -128,
            -129,
            1 << 23,
            -(1 << 23),
            1 << 47,
            -(1 << 47),
            i64::MAX,
            i64::MIN,
        ] {
            assert_eq!(
                decode(&encode(&[Value::Integer(v)])).unwrap(),
                vec![Value::Integer(v)]
            );
        }
        for v in [0, 127, 128, (1 << 56) - 1, 1 << 56, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, v);
            assert_eq!(get_varint(&out), Some((v, out.len())), "{v}");
        }
    }

    #[test]
    fn matches_a_record_written_by_the_official_client() {
        // From the recorded change log: (1, 'one', 1.5, x'00ff').
        let hex = "05091307106f6e653ff800000000000000ff";
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect();
        let values = vec![
            Value::Integer(1),
            Value::Text(b"one".to_vec()),
            Value::Real(1.5),
            Value::Blob(vec![0, 0xff]),
        ];
        assert_eq!(decode(&bytes).unwrap(), values);
        assert_eq!(encode(&values), bytes);
    }
}
