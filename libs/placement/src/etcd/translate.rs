//! Between etcd's words and the port's.

use std::time::Duration;

use etcd_client::{CompareOp, EventType, KeyValue, PutOptions, TxnOp};
use tonic::Code;

use crate::port::{Compare, Entry, Event, LeaseId, Op, StoreError};

pub(super) fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// `None` for a key that is not text: it is nobody's we know.
pub(super) fn entry(from: &KeyValue) -> Option<Entry> {
    let key = from.key_str().ok()?.to_owned();
    let lease = (from.lease() != 0).then(|| LeaseId(from.lease()));
    Some(Entry { key, value: from.value().to_owned(), revision: from.mod_revision(), lease })
}

pub(super) fn event(from: &etcd_client::Event) -> Option<Event> {
    let entry = entry(from.kv()?)?;
    Some(match from.event_type() {
        EventType::Put => Event::Put(entry),
        EventType::Delete => Event::Deleted { key: entry.key, revision: entry.revision },
    })
}

pub(super) fn transaction(compares: Vec<Compare>, ops: Vec<Op>) -> etcd_client::Txn {
    let compares: Vec<etcd_client::Compare> = compares
        .into_iter()
        .map(|compare| match compare {
            Compare::Absent(key) => etcd_client::Compare::create_revision(key, CompareOp::Equal, 0),
            Compare::Value(key, value) => etcd_client::Compare::value(key, CompareOp::Equal, value),
            Compare::Revision(key, revision) => {
                etcd_client::Compare::mod_revision(key, CompareOp::Equal, revision)
            }
        })
        .collect();
    let ops: Vec<TxnOp> = ops
        .into_iter()
        .map(|op| match op {
            Op::Put(key, value, lease) => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key, value, options)
            }
            Op::Delete(key) => TxnOp::delete(key, None),
        })
        .collect();
    etcd_client::Txn::new().when(compares).and_then(ops)
}

/// What an error of the library means. Whatever is not known to be an answer counts as none.
pub(super) fn failure(error: &etcd_client::Error) -> StoreError {
    if let etcd_client::Error::LeaseKeepAliveError(why) = error
        && why.contains("not found")
    {
        return StoreError::Gone;
    }
    let etcd_client::Error::GRpcStatus(status) = error else {
        return StoreError::Unavailable(error.to_string());
    };
    let said = || status.message().to_owned();
    match status.code() {
        Code::NotFound if status.message().contains("lease") => StoreError::Gone,
        Code::OutOfRange if status.message().contains("compacted") => StoreError::Compacted,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Unimplemented => StoreError::Refused(said()),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => StoreError::Unavailable(said()),
    }
}

/// A connection that could not be made, with what lies at the bottom of it.
pub(super) fn unreachable(error: &tonic::transport::Error) -> StoreError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    StoreError::Unavailable(cause.to_string())
}
