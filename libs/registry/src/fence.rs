//! The newest epoch seen of each slot of each mesh. Whoever acts for an older owner is refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::registry::Context;
use api::{Code, Error};

/// Slots of all meshes together. A mesh has 4096.
const MOST: usize = 1 << 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    highest: Mutex<BTreeMap<(String, u16), u64>>,
}

impl Fences {
    /// Lets the newest owner pass, and requests that nobody owns.
    pub(crate) fn check(&self, context: &Context) -> Result<(), Error> {
        let Some((slot, epoch)) = context.owner else { return Ok(()) };
        if epoch.0 == 0 {
            return Err(Error::new(Code::InvalidRequest, "epochs start at 1"));
        }
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (context.mesh.clone(), slot.number());
        let seen = highest.get(&key).copied().unwrap_or_default();
        if epoch.0 < seen {
            return Err(Error::stale_epoch(seen));
        }
        if seen == 0 && highest.len() >= MOST {
            return Err(Error::overloaded("too many meshes", Duration::from_secs(1)));
        }
        highest.insert(key, epoch.0);
        Ok(())
    }
}
