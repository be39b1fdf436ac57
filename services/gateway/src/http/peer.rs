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

    /// What requests of this principal, or of nobody in particular, are counted by.
    pub(crate) fn caller(&self, limits: &Limits, principal: Option<&Principal>) -> Lease {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((who, lease)) = last.as_ref()
            && who.as_ref() == principal
        {
            return lease.clone();
        }
        let lease = limits.caller(principal, self.0.ip);
        *last = Some((principal.cloned(), lease.clone()));
        lease
    }
}
