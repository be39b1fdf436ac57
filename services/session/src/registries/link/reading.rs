//! Everything a registry process lists, read page by page.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Error;
use api::registry::{Kind, Page, RegistryDescription};

use super::super::catalogue::{List, SourceKey};
use super::{Content, Link, limited, own_context};

/// Most pages that one list may have.
const MAX_PAGES: usize = 1000;
/// How often a list that changes while it is read is begun again at once. Beyond it the connection is given up, and with it
/// the haste.
pub(super) const MAX_READINGS: usize = 10;

impl Link {
    /// Everything a registry lists. `None` where its namespace is none: it is left out, and the process' others are not.
    pub(super) async fn read_source(&self, registry: &RegistryDescription) -> Result<Option<Content>, Error> {
        let namespace = self.namespace.clone().unwrap_or_else(|| registry.namespace.clone());
        if !namespace.is_empty() && !mcp::name::is_namespace(&namespace) {
            let (address, name) = (&self.address, &registry.name);
            tracing::warn!(%address, registry = %name, %namespace, "registry left out: a namespace is [A-Za-z0-9-]{{1,24}}");
            return Ok(None);
        }
        let mut lists = BTreeMap::new();
        for (kind, _) in &registry.kinds {
            lists.insert(*kind, Arc::new(self.read_list(&registry.name, *kind).await?));
        }
        let server = registry.server_info.as_ref().and_then(|info| info.text("name")).unwrap_or_default();
        Ok(Some(Content {
            key: Arc::new(SourceKey { namespace, registry: registry.name.clone(), server }),
            capabilities: registry.capabilities.clone(),
            instructions: registry.instructions.clone(),
            version: registry.version.clone(),
            lists,
        }))
    }

    /// All pages. A list that changes while it is read is read again from the start.
    pub(super) async fn read_list(&self, registry: &str, kind: Kind) -> Result<List, Error> {
        'again: for _ in 0..MAX_READINGS {
            let mut list = List { public: true, ttl_ms: u64::MAX, ..List::default() };
            let mut cursor = None;
            let mut digest: Option<String> = None;
            for _ in 0..MAX_PAGES {
                let page = match limited(self.port.list(own_context(registry), kind, cursor.take())).await {
                    Err(error) if error.code == api::Code::InvalidRequest && digest.is_some() => {
                        continue 'again;
                    }
                    other => other?,
                };
                if *digest.get_or_insert_with(|| page.digest.clone()) != page.digest {
                    continue 'again;
                }
                cursor = append(&mut list, page);
                if cursor.is_none() {
                    return Ok(list);
                }
            }
            return Err(Error::new(
                api::Code::InvalidRequest,
                format!("{registry}: a list of more than {MAX_PAGES} pages"),
            ));
        }
        Err(Error::new(
            api::Code::Unavailable,
            format!("{registry}: a list that changes whenever it is read"),
        ))
    }
}

fn append(list: &mut List, page: Page) -> Option<String> {
    list.items.extend(page.items);
    list.ttl_ms = list.ttl_ms.min(page.ttl_ms);
    list.public &= page.public;
    if list.meta.is_none() {
        list.meta = page.meta;
    }
    page.next_cursor
}
