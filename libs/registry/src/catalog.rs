//! One list of a registry: entries as raw JSON, in bytewise order of their names, with a digest that is the same in every
//! replica with the same entries.

use std::collections::BTreeMap;

use api::Error;
use mcp::Json;
use sha2::{Digest, Sha256};

use crate::cursor;

/// Bytes of the entries of one page, so that a page fits into a message.
const PAGE_BYTES: usize = 2 << 20;

/// See the module. A changed list is another catalogue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Catalog {
    entries: Vec<Json>,
    pub(crate) digest: String,
}

impl Catalog {
    pub(crate) fn new(entries: BTreeMap<String, Json>) -> Self {
        let mut hasher = Sha256::new();
        for entry in entries.values() {
            let bytes = entry.as_str().as_bytes();
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        }
        let digest = hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { entries: entries.into_values().collect(), digest }
    }

    /// One page and the cursor of the next.
    pub(crate) fn page(
        &self,
        cursor: Option<&str>,
        page_size: usize,
    ) -> Result<(Vec<Json>, Option<String>), Error> {
        let first = match cursor {
            Some(cursor) => cursor::read(cursor, &self.digest, self.entries.len())?,
            None => 0,
        };
        let mut bytes = 0;
        let items: Vec<Json> = self.entries[first..]
            .iter()
            .take(page_size)
            .enumerate()
            .take_while(|(at, entry)| {
                bytes += entry.as_str().len();
                *at == 0 || bytes <= PAGE_BYTES
            })
            .map(|(_, entry)| entry.clone())
            .collect();
        let next = first + items.len();
        let next = (next < self.entries.len()).then(|| cursor::make(&self.digest, next));
        Ok((items, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(names: &[&str]) -> Catalog {
        Catalog::new(names.iter().map(|name| ((*name).to_owned(), Json::of(*name))).collect())
    }

    #[test]
    fn pages_hold_every_entry_once_and_in_order() {
        let catalog = catalog(&["b", "a", "d", "c", "e"]);
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let (items, next) = catalog.page(cursor.as_deref(), 2).unwrap();
            seen.extend(items.iter().map(Json::to_string));
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["\"a\"", "\"b\"", "\"c\"", "\"d\"", "\"e\""]);
        assert_eq!(catalog.page(None, 5).unwrap().1, None, "a full last page has no next");
        assert_eq!(Catalog::new(BTreeMap::new()).page(None, 5).unwrap(), (Vec::new(), None));
    }

    #[test]
    fn a_page_is_bounded_in_bytes_but_never_empty() {
        let big = |name: &str| (name.to_owned(), Json::of(&"x".repeat(PAGE_BYTES)));
        let catalog = Catalog::new(BTreeMap::from([big("a"), big("b")]));
        assert_eq!(catalog.page(None, 10).unwrap().0.len(), 1);
    }

    #[test]
    fn the_digest_follows_the_content_only() {
        assert_eq!(catalog(&["a", "b"]).digest, catalog(&["b", "a"]).digest);
        assert_ne!(catalog(&["a", "b"]).digest, catalog(&["a"]).digest);
        assert_ne!(catalog(&["a", "b"]).digest, catalog(&["ab"]).digest);
    }
}
