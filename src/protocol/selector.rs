//! Page selectors: sets of zero-based page ids in the portable Roaring format
//! (<https://github.com/RoaringBitmap/RoaringFormatSpec>, 32-bit, little endian).

use std::ops::Range;

use roaring::RoaringBitmap;

use crate::error::{Error, Result};

/// Longest selector that is decoded, in bytes: twice what 65536 run containers with one run each take.
pub const MAX_SELECTOR_LEN: usize = 2 << 20;

/// Serialises a set of page ids. An empty set gives a non-empty string, which selects nothing.
pub fn encode(ids: &RoaringBitmap) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(ids.serialized_size());
    ids.serialize_into(&mut out)
        .map_err(|e| Error::internal(format!("page selector: {e}")))?;
    Ok(out)
}

/// Serialises the contiguous ids of `range` as one run per 65536 ids.
pub fn encode_range(range: Range<u32>) -> Result<Vec<u8>> {
    let mut ids = RoaringBitmap::new();
    ids.insert_range(range);
    ids.optimize();
    encode(&ids)
}

/// Parses a selector; the caller treats an empty byte string ("all pages") beforehand.
pub fn decode(bytes: &[u8]) -> Result<RoaringBitmap> {
    if bytes.len() > MAX_SELECTOR_LEN {
        return Err(Error::protocol(format!(
            "the page selector has {} bytes, more than {MAX_SELECTOR_LEN}",
            bytes.len()
        )));
    }
    let mut rest = bytes;
    let ids = RoaringBitmap::deserialize_from(&mut rest)
        .map_err(|e| Error::protocol(format!("the page selector is not a Roaring bitmap: {e}")))?;
    if rest.is_empty() {
        Ok(ids)
    } else {
        Err(Error::protocol("bytes after the end of the page selector"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: [u8; 20] = [
        0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0x10, 0, 0, 0, 0, 0, 2, 0,
    ];
    const RUN: [u8; 15] = [0x3b, 0x30, 0, 0, 1, 0, 0, 0x0f, 0, 1, 0, 0, 0, 0x0f, 0];

    #[test]
    fn both_cookies() {
        assert_eq!(decode(&LIST).unwrap(), RoaringBitmap::from([0, 2]));
        assert_eq!(encode(&RoaringBitmap::from([0, 2])).unwrap(), LIST);
        assert_eq!(decode(&RUN).unwrap(), (0..16).collect());
        assert_eq!(encode_range(0..16).unwrap(), RUN);
    }

    #[test]
    fn an_empty_set_is_not_an_empty_string() {
        let bytes = encode(&RoaringBitmap::new()).unwrap();
        assert!(!bytes.is_empty());
        assert!(decode(&bytes).unwrap().is_empty());
    }

    #[test]
    fn long_ranges_stay_short() {
        let bytes = encode_range(0..10_000_000).unwrap();
        assert!(bytes.len() < 4096, "{}", bytes.len());
        assert_eq!(decode(&bytes).unwrap().len(), 10_000_000);
    }

    #[test]
    fn trailing_bytes_and_oversize_are_refused() {
        let mut bytes = LIST.to_vec();
        bytes.push(0);
        assert!(decode(&bytes).is_err());
        assert!(decode(&vec![0; MAX_SELECTOR_LEN + 1]).is_err());
        assert!(decode(&[]).is_err());
    }

    proptest! {
        #[test]
        fn sets_round_trip(ids in proptest::collection::btree_set(any::<u32>(), 0..300)) {
            let ids: RoaringBitmap = ids.into_iter().collect();
            prop_assert_eq!(decode(&encode(&ids).unwrap()).unwrap(), ids);
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(
            cookie in prop_oneof![Just(0x3a), Just(0x3b), any::<u8>()],
            tail in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = vec![cookie, 0x30];
            bytes.extend(tail);
            let _ = decode(&bytes);
        }
    }
}
