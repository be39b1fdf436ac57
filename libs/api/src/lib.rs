//! What the services say to each other.
//!
//! Owns: the ports [`Registry`] and [`SessionHost`], their types, the gRPC adapters on both sides of each, the identifiers
//! and the key ring they are made with, and the one error type with its table. Must not know: any implementation of a
//! port, any runtime. Start reading at [`registry`] and [`session`].

pub mod error;
pub mod ids;
pub mod keys;
mod link;
pub mod registry;
pub mod session;
pub mod wire;

pub use error::{Code, Detail, Error};
pub use ids::{Epoch, EventId, SessionId, Slot, SlotCount};
pub use keys::{KeyRing, Purpose};
pub use registry::Registry;
pub use session::SessionHost;

/// Messages and services generated from `proto/`. Stay inside the adapters.
pub mod pb {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::pedantic,
        clippy::wildcard_enum_match_arm,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "generated"
    )]

    /// `trunkline.registry.v1`
    pub mod registry {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("trunkline.registry.v1");
        }
        pub use self::v1::*;
    }
    /// `trunkline.session.v1`
    pub mod session {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("trunkline.session.v1");
        }
        pub use self::v1::*;
    }
    /// `trunkline.mesh.v1`
    pub mod mesh {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("trunkline.mesh.v1");
        }
        pub use self::v1::*;
    }
}

use mcp::Revision;

/// On whose behalf a request is made.
#[derive(Debug, Clone, Eq, PartialOrd, Ord, Hash, Default)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "equal in the same cases as derived")]
pub struct Principal {
    /// Stable within the issuer; empty = anonymous.
    pub subject: String,
    /// Who vouches for the subject.
    pub issuer: String,
    /// Tenant; empty where tenancy is not used.
    pub tenant: String,
    /// Program that acts for the subject; empty where the credentials do not tell.
    pub client: String,
}

impl PartialEq for Principal {
    /// Compares nothing with nothing without a look at it: where vectors are compared under a mask, reading no bytes at the address
    /// of an empty string is a fault that the processor takes hundreds of cycles to swallow, and the anonymous are four of those.
    fn eq(&self, other: &Self) -> bool {
        let is_same = |one: &str, other: &str| one.len() == other.len() && (one.is_empty() || one == other);
        is_same(&self.subject, &other.subject)
            && is_same(&self.issuer, &other.issuer)
            && is_same(&self.tenant, &other.tenant)
            && is_same(&self.client, &other.client)
    }
}

impl Principal {
    /// Whether nobody in particular asks.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.subject.is_empty()
    }
}

/// The revision a request context names, or the newest where it names none this build knows.
pub(crate) fn revision_or_latest(text: &str) -> Revision {
    Revision::parse(text).unwrap_or(Revision::LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_the_same_if_all_is() {
        let of = |[subject, issuer, tenant, client]: [&str; 4]| {
            let [subject, issuer, tenant, client] = [subject, issuer, tenant, client].map(str::to_owned);
            Principal { subject, issuer, tenant, client }
        };
        let words = ["", "a", "b", "ab"];
        let each = |number: usize| [0, 2, 4, 6].map(|shift| words[(number >> shift) & 3]);
        let all: Vec<_> = (0..256).map(|number| of(each(number))).collect();
        for (number, one) in all.iter().enumerate() {
            let alike: Vec<usize> = (0..all.len()).filter(|other| all[*other] == *one).collect();
            assert_eq!(alike, [number], "{one:?}");
        }
    }
}
