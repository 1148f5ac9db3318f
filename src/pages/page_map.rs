//! From page numbers to slots of a file, in memory.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Pages of a block.
const BLOCK: u32 = 256;

/// What belongs to each page. Memory: four bytes per page where pages are many, and never more than a KiB per page, so
/// that a remote that names distant pages cannot make it large without sending as much itself.
#[derive(Default)]
pub(super) struct PageMap {
    /// By block number: the slots plus one, 0 for none.
    blocks: BTreeMap<u32, Box<[u32; BLOCK as usize]>>,
    len: usize,
}

impl PageMap {
    /// Number of pages that have a slot.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The slot of page `page_no`.
    pub fn get(&self, page_no: u32) -> Option<u64> {
        let block = self.blocks.get(&(page_no / BLOCK))?;
        block[(page_no % BLOCK) as usize].checked_sub(1).map(u64::from)
    }

    /// Gives page `page_no` a slot; the one it had.
    pub fn insert(&mut self, page_no: u32, slot: u64) -> Result<Option<u64>> {
        let stored = u32::try_from(slot).ok().and_then(|slot| slot.checked_add(1));
        let stored = stored.ok_or_else(|| Error::internal("a side file has too many pages"))?;
        let block = self.blocks.entry(page_no / BLOCK);
        let block = block.or_insert_with(|| Box::new([0; BLOCK as usize]));
        let old = std::mem::replace(&mut block[(page_no % BLOCK) as usize], stored);
        let old = old.checked_sub(1).map(u64::from);
        self.len += usize::from(old.is_none());
        Ok(old)
    }

    /// Forgets the pages behind `last`.
    pub fn truncate(&mut self, last: u32) {
        let mut cut = self.blocks.split_off(&(last / BLOCK));
        if let Some(mut block) = cut.remove(&(last / BLOCK)) {
            block[(last % BLOCK) as usize + 1..].fill(0);
            self.blocks.insert(last / BLOCK, block);
        }
        self.len = self.blocks.values().map(|block| taken(block).count()).sum();
    }

    /// The pages that have a slot, in ascending order.
    pub fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        let blocks = self.blocks.iter();
        blocks.flat_map(|(number, block)| taken(block).map(move |at| number * BLOCK + at))
    }
}

/// Which pages of a block have a slot.
fn taken(block: &[u32; BLOCK as usize]) -> impl Iterator<Item = u32> + '_ {
    (0..).zip(block).filter(|(_, slot)| **slot > 0).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0u32..2000, 0u64..100, any::<bool>()), 0..60)) {
            let (mut map, mut model) = (PageMap::default(), BTreeMap::new());
            for (page_no, slot, cut) in steps {
                if cut {
                    map.truncate(page_no);
                    model.retain(|p, _| *p <= page_no);
                } else {
                    prop_assert_eq!(map.insert(page_no, slot).unwrap(), model.insert(page_no, slot));
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.pages().eq(model.keys().copied()));
                prop_assert!((0..2000).all(|p| map.get(p) == model.get(&p).copied()));
            }
        }
    }

    #[test]
    fn the_last_page_has_a_place_and_the_last_slot_has_none() {
        let mut map = PageMap::default();
        map.insert(u32::MAX, u64::from(u32::MAX) - 1).unwrap();
        assert_eq!(map.get(u32::MAX), Some(u64::from(u32::MAX) - 1));
        assert!(map.pages().eq([u32::MAX]));
        assert!(map.insert(1, u64::from(u32::MAX)).is_err());
        map.truncate(u32::MAX);
        assert_eq!(map.len(), 1);
    }
}
