//! Who is at the other end of the connection a request came on. In the extensions of every request.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use api::Principal;

use crate::limits::{Account, Admission, Lease, Limits};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ip: IpAddr,
    is_secure: bool,
    admission: Admission,
    /// Whose account was asked for last: a connection is hardly ever used by two.
    last: Mutex<Option<(Option<Principal>, Lease)>>,
}

impl Peer {
    pub(crate) fn new(ip: IpAddr, is_secure: bool, admission: Admission) -> Self {
        Self(Arc::new(Inner { ip, is_secure, admission, last: Mutex::new(None) }))
    }

    /// Its address.
    pub(crate) fn ip(&self) -> IpAddr {
        self.0.ip
    }

    /// Whether TLS is spoken with it.
    pub(crate) fn is_secure(&self) -> bool {
        self.0.is_secure
    }

    /// The account of its address; none for loopback.
    pub(crate) fn address(&self) -> Option<&Account> {
        self.0.admission.address()
    }

    /// Does something with what requests of this principal, or of nobody in particular, are counted by.
    pub(crate) fn caller<T>(
        &self,
        limits: &Limits,
        principal: Option<&Principal>,
        act: impl FnOnce(&Account) -> T,
    ) -> T {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref() {
            Some((who, lease)) if who.as_ref() == principal => act(lease),
            Some(_) | None => {
                let lease = limits.caller(principal, self.0.ip);
                act(&last.insert((principal.cloned(), lease)).1)
            }
        }
    }
}
