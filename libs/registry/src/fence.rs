//! The newest epoch seen of each slot of each mesh. Whoever acts for an older owner is refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::registry::Context;
use api::{Code, Error, Slot};

/// Slots of all meshes together. A mesh has 4,096, or 16,384: there is room for sixteen of the large ones.
const MOST: usize = 16 * Slot::MOST as usize;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    highest: Mutex<BTreeMap<(String, u16), u64>>,
}

/// In whose name a request comes.
pub(crate) struct Stamp {
    key: (String, u16),
    epoch: u64,
}

impl Stamp {
    /// `None` if nobody owns it.
    pub(crate) fn of(context: &Context) -> Option<Self> {
        let (slot, epoch) = context.owner?;
        Some(Self { key: (context.mesh.clone(), slot.number()), epoch: epoch.0 })
    }
}

impl Fences {
    /// Lets the newest owner pass, and requests that nobody owns.
    pub(crate) fn check(&self, context: &Context) -> Result<(), Error> {
        self.pass(Stamp::of(context), || ())
    }

    /// The same for one that takes something on: no newer owner comes between. Whoever asks after it as a newer owner either
    /// finds it, or knows that it will not be there.
    pub(crate) fn pass<T>(&self, stamp: Option<Stamp>, enter: impl FnOnce() -> T) -> Result<T, Error> {
        let Some(Stamp { key, epoch }) = stamp else { return Ok(enter()) };
        if epoch == 0 {
            return Err(Error::new(Code::InvalidRequest, "epochs start at 1"));
        }
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = highest.get_mut(&key) {
            if epoch < *seen {
                return Err(Error::stale_epoch(*seen));
            }
            *seen = epoch;
            return Ok(enter());
        }
        if highest.len() >= MOST {
            return Err(Error::overloaded("too many meshes", Duration::from_secs(1)));
        }
        highest.insert(key, epoch);
        Ok(enter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(epoch: Option<u64>) -> Option<Stamp> {
        epoch.map(|epoch| Stamp { key: ("m".into(), 1), epoch })
    }

    #[test]
    fn no_newer_owner_comes_between_the_check_and_what_is_taken_on() {
        let fences = Fences::default();
        let entered = fences.pass(by(Some(5)), || fences.highest.try_lock().is_err());
        assert_eq!(entered, Ok(true));
        assert_eq!(fences.pass(by(Some(4)), || panic!("older")), Err::<(), _>(Error::stale_epoch(5)));
        assert_eq!(fences.pass(by(None), || 1), Ok(1));
    }
}
