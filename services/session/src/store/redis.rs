//! Sessions in Redis: a hash for each, a Redis stream for each of its streams that has events, one script for each write.
//!
//! The fence of a slot, the version of a session and who committed last decide inside the script; nothing here does. What was
//! given up because no answer came is found again: see [`line`] and [`doubt`]. Ids and contents of sessions are never logged.

mod call;
mod dial;
mod doubt;
mod examine;
mod keys;
mod line;
mod script;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::{Cmd, FromRedisValue as _, Pipeline, Value};
use api::session::Transport;
use api::{Epoch, Principal, SessionId, Slot, SlotCount};
use async_trait::async_trait;
use chassis::metrics::{Counter, Metrics};
use chassis::workers::PerWorker;
use futures::{StreamExt as _, stream};
use machines::{CommitRefusal, StreamId};

use self::call::{Places, Reply};
use self::dial::Dialler;
pub(super) use self::dial::Servers;
use self::doubt::Doubts;
pub(super) use self::examine::Seen;
use self::keys::Keys;
use self::line::{Failure, Line, Link};
use self::script::SCRIPTS;
use super::fields::{self, Parts};
use super::refusals::Refusals;
use super::{Answered, Commit, Fenced, SessionStore, Stored, Unfit, names, restore};
use crate::host::ROLE;

/// Slots that are fenced at the same time.
const FENCES: usize = 64;
/// How often what changes while it is read is read again.
const READS: usize = 4;

/// What does not depend on where the servers are.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) key_prefix: String,
    /// How long a session is kept that nobody uses.
    pub(super) life: Duration,
    /// Replicas that are waited for; 0 = none.
    pub(super) wait_replicas: usize,
    pub(super) wait: Duration,
}

/// See the module.
pub(super) struct Redis {
    lines: PerWorker<Line>,
    dialler: Arc<Dialler>,
    keys: Keys,
    settings: Settings,
    doubts: Doubts,
    /// Tells this process' commits from those of others under the same epoch, which there should not be.
    instance: String,
    next: AtomicU64,
    counts: Counts,
}

struct Counts {
    refusals: Refusals,
    refused_short: Counter,
    went_short: Counter,
}

/// What has to be there for the whole of a session to be written.
enum Instead<'a> {
    /// A version up to this, or none.
    UpTo(u64),
    /// A version up to this.
    Before(u64),
    /// This one.
    Of(u64),
    /// This one, by this commit.
    By(u64, &'a str),
}

impl Redis {
    pub(super) fn new(servers: Servers, settings: Settings, metrics: &Metrics) -> Self {
        let dialler = Arc::new(Dialler::new(servers));
        let random =
            chassis::clock::random::<8>().map_or_else(|_| chassis::clock::unix_millis(), u64::from_le_bytes);
        Self {
            lines: PerWorker::new(|| Line::new(dialler.clone())),
            dialler,
            keys: Keys::new(settings.key_prefix.clone()),
            settings,
            doubts: Doubts::default(),
            instance: format!("{random:x}"),
            next: AtomicU64::new(1),
            counts: Counts::new(&metrics.of_role(ROLE)),
        }
    }

    /// What the servers say of themselves, once they are there.
    pub(super) async fn examine(&self, patience: Duration) -> Result<Vec<Seen>, String> {
        examine::examine(&self.dialler, patience).await
    }

    /// Sends a script's call and reads what it answers.
    async fn ask(&self, cmd: &Cmd) -> Result<(Reply, Link), CommitRefusal> {
        let (value, link) = self.lines.get().send(cmd).await.map_err(|failure| self.failed(&failure))?;
        match Reply::read(value) {
            Some(reply) => Ok((reply, link)),
            None => Err(self.failed(&Failure::Refused("an answer that no script gives".into()))),
        }
    }

    fn failed(&self, failure: &Failure) -> CommitRefusal {
        match failure {
            Failure::Down => CommitRefusal::Down,
            Failure::Refused(code) => {
                tracing::warn!(%code, "the session store refuses a command");
                // What is there is none of ours.
                if code == "WRONGTYPE" { CommitRefusal::Conflict } else { CommitRefusal::Down }
            }
        }
    }

    /// A number of its own for each write, and who writes it.
    fn stamp(&self, epoch: Epoch) -> (u64, String) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number, [&epoch.0.to_string(), ".", &self.instance, ".", &number.to_string()].concat())
    }

    /// The number in a stamp of this process under this epoch.
    fn number_of(&self, by: &str, epoch: Epoch) -> Option<u64> {
        let (of, rest) = by.split_once('.')?;
        let (instance, number) = rest.split_once('.')?;
        (of.parse() == Ok(epoch.0) && instance == self.instance).then(|| number.parse().ok())?
    }

    /// Writes the whole of a session. Streams that nobody here knows of are found on the way.
    async fn rewrite(
        &self,
        id: &SessionId,
        instead: &Instead<'_>,
        (epoch, by): (Epoch, &str),
        (version, parts): (u64, &Parts),
        answered: Option<&Answered>,
    ) -> Result<(Reply, Link), CommitRefusal> {
        let mut others: Vec<StreamId> = Vec::new();
        loop {
            let streams = parts.logs.iter().map(|(stream, _)| *stream).chain(others.iter().copied());
            let places = Places::new(&self.keys, id, streams);
            let mut cmd = SCRIPTS.rewrite.call(places.all());
            let (how, before, whose) = match instead {
                Instead::UpTo(version) => ("max", *version, ""),
                Instead::Before(version) => ("old", *version, ""),
                Instead::Of(version) => ("is", *version, ""),
                Instead::By(version, by) => ("is", *version, *by),
            };
            cmd.arg(epoch.0).arg(how).arg(before).arg(whose).arg(version).arg(by).arg(self.life_ms());
            call::written(&mut cmd, &places, parts, answered);
            match self.ask(&cmd).await? {
                (Reply::Streams(more), _) if others.is_empty() => others = more,
                (reply, link) => return Ok((reply, link)),
            }
        }
    }

    /// One commit, up to what the script answers.
    async fn write(
        &self,
        id: &SessionId,
        (epoch, by): (Epoch, &str),
        version: u64,
        commit: &Commit<'_>,
    ) -> Result<(Reply, Link), CommitRefusal> {
        let Some(parts) = fields::touched(commit.changes, commit.after) else {
            let whole = fields::whole(commit.after);
            let answered = commit.answered.as_ref();
            return self
                .rewrite(id, &Instead::Of(version), (epoch, by), (version + 1, &whole), answered)
                .await;
        };
        let mut places = Places::new(&self.keys, id, parts.logs.iter().map(|(stream, _)| *stream));
        if commit.answered.is_none() {
            places = places.without_done();
        }
        let mut cmd = SCRIPTS.commit.call(places.all());
        let look = if fields::begins(commit.changes) { "" } else { "look" };
        cmd.arg(epoch.0).arg(version).arg(version + 1).arg(by).arg(self.life_ms()).arg(look);
        call::written(&mut cmd, &places, &parts, commit.answered.as_ref());
        self.ask(&cmd).await
    }

    /// One commit; where it finds one of its own that was given up, it takes its place.
    async fn write_over(
        &self,
        id: &SessionId,
        stamp: (Epoch, &str),
        version: u64,
        commit: &Commit<'_>,
    ) -> Result<(Reply, Link), CommitRefusal> {
        let (reply, link) = self.write(id, stamp, version, commit).await?;
        let Reply::Other { version: there, by } = &reply else { return Ok((reply, link)) };
        let given_up =
            self.number_of(by, stamp.0).is_some_and(|number| self.doubts.covers(id, version, number));
        if !given_up || there.parse() != Ok(version + 1) {
            return Ok((reply, link));
        }
        let whole = fields::whole(commit.after);
        let instead = Instead::By(version + 1, by);
        self.rewrite(id, &instead, stamp, (version + 1, &whole), commit.answered.as_ref()).await
    }

    /// Writes back what the store has lost.
    async fn write_back(
        &self,
        id: &SessionId,
        instead: &Instead<'_>,
        stamp: (Epoch, &str),
        stored: &Stored,
    ) -> Result<(), CommitRefusal> {
        let Stored { principal, transport, snapshot, version } = stored;
        let mut parts = fields::whole(snapshot);
        parts.set.extend(fields::identity(principal, *transport));
        let written = self.rewrite(id, instead, stamp, (*version, &parts), None).await;
        let repaired = written.and_then(|(reply, _)| reply.done());
        if repaired.is_ok() {
            self.doubts.settle(id);
        }
        self.refused(repaired)
    }

    /// Lets the replicas have a commit that matters. An error where it is not worth having without them.
    async fn replicate(&self, id: &SessionId, link: &Link, commit: &Commit<'_>) -> Result<(), CommitRefusal> {
        let Settings { wait_replicas, wait, .. } = self.settings;
        if wait_replicas == 0 || !fields::matters(commit.changes) {
            return Ok(());
        }
        let got = link.waits.behind(&link.wire, &self.keys.session(id), wait_replicas, wait).await;
        if got >= wait_replicas {
            return Ok(());
        }
        if fields::can_be_refused(commit.changes) {
            self.counts.refused_short.inc();
            return Err(CommitRefusal::Down);
        }
        self.counts.went_short.inc();
        Ok(())
    }

    /// Raises a fence on the server; the connection says which replicas have it.
    async fn raise(&self, slot: Slot, epoch: Epoch) -> Result<Link, Fenced> {
        let mut cmd = SCRIPTS.fence.call(&[self.keys.fence(slot), self.keys.holder(slot)]);
        match self.lines.get().send(cmd.arg(epoch.0).arg(&self.instance)).await {
            Ok((Value::Int(_), link)) => Ok(link),
            Ok((value, _)) => Err(match u64::from_redis_value(value) {
                Ok(there) => Fenced::Higher(Epoch(there)),
                Err(_) => Fenced::Down,
            }),
            Err(failure) => {
                let _refusal = self.failed(&failure);
                Err(Fenced::Down)
            }
        }
    }

    /// A fence counts once replicas have it: one that a fail-over forgets lets the owner before in again.
    async fn kept(&self, link: &Link, slot: Slot) -> Fenced {
        let Settings { wait_replicas, wait, .. } = self.settings;
        if wait_replicas == 0 {
            return Fenced::Done;
        }
        let got = link.waits.behind(&link.wire, &self.keys.fence(slot), wait_replicas, wait).await;
        if got >= wait_replicas { Fenced::Done } else { Fenced::Down }
    }

    /// Renews the life of whatever a session has beside its hash. If it fails, the next time is early enough.
    async fn renew(&self, id: &SessionId, streams: impl Iterator<Item = StreamId>) {
        let mut pipeline = Pipeline::new();
        for stream in streams {
            pipeline.cmd("PEXPIRE").arg(self.keys.log(id, stream)).arg(self.life_ms());
        }
        if !pipeline.is_empty() && self.lines.get().read(&pipeline).await.is_err() {
            tracing::debug!("the events of a session could not be renewed");
        }
    }

    async fn read(&self, id: &SessionId) -> Result<Option<Stored>, CommitRefusal> {
        let (session, line) = (self.keys.session(id), self.lines.get());
        let failed = |failure| self.failed(&failure);
        let damaged = |why: restore::Unreadable| {
            tracing::error!(slot = %id.slot(), %why, "a stored session cannot be used");
            CommitRefusal::Conflict
        };
        for _ in 0..READS {
            let mut all = ::redis::cmd("HGETALL");
            let (value, _) = line.send(all.arg(&session)).await.map_err(failed)?;
            let fields =
                Vec::from_redis_value(value).map_err(|_| damaged(restore::Unreadable::Damaged("".into())))?;
            let Some(mut outline) = restore::outline(fields).map_err(damaged)? else { return Ok(None) };
            if outline.logs.is_empty() {
                return Ok(Some(outline.stored));
            }
            let mut pipeline = Pipeline::new();
            pipeline.cmd("HMGET").arg(&session).arg(names::VERSION).arg(names::BY);
            for (stream, _) in &outline.logs {
                pipeline.cmd("XRANGE").arg(self.keys.log(id, *stream)).arg("-").arg("+");
            }
            let mut values = line.read(&pipeline).await.map_err(failed)?.into_iter();
            let still = values.next().map(<(String, String)>::from_redis_value);
            if still.and_then(Result::ok) != Some((outline.stored.version.to_string(), outline.by.clone())) {
                continue;
            }
            for ((stream, count), value) in std::mem::take(&mut outline.logs).into_iter().zip(values) {
                let events =
                    call::entries(value).ok_or_else(|| damaged(restore::Unreadable::Event(stream)))?;
                outline.fill(stream, count, events).map_err(damaged)?;
            }
            return Ok(Some(outline.stored));
        }
        Err(CommitRefusal::Down)
    }

    fn life_ms(&self) -> u64 {
        u64::try_from(self.settings.life.as_millis()).unwrap_or(u64::MAX)
    }

    fn refused<T>(&self, outcome: Result<T, CommitRefusal>) -> Result<T, CommitRefusal> {
        self.counts.refusals.count(outcome)
    }
}

#[async_trait]
impl SessionStore for Redis {
    async fn fence(&self, slots: &[(Slot, Epoch)]) -> Vec<Fenced> {
        let raise = |(slot, epoch): (Slot, Epoch)| async move {
            match self.raise(slot, epoch).await {
                Ok(link) => self.kept(&link, slot).await,
                Err(fenced) => fenced,
            }
        };
        stream::iter(slots.iter().copied()).map(raise).buffered(FENCES).collect().await
    }

    async fn is_fenced(&self, slot: Slot, epoch: Epoch) -> Fenced {
        self.raise(slot, epoch).await.map_or_else(|fenced| fenced, |_| Fenced::Done)
    }

    async fn create(
        &self,
        id: &SessionId,
        epoch: Epoch,
        principal: &Principal,
        transport: Transport,
    ) -> Result<(), CommitRefusal> {
        let mut cmd = SCRIPTS.create.call(&[self.keys.fence(id.slot()), self.keys.session(id)]);
        cmd.arg(epoch.0).arg(self.stamp(epoch).1).arg(self.life_ms());
        for (name, value) in fields::identity(principal, transport) {
            cmd.arg(name).arg(value);
        }
        self.refused(self.ask(&cmd).await.and_then(|(reply, _)| reply.done()))
    }

    async fn commit(
        &self,
        id: &SessionId,
        epoch: Epoch,
        version: u64,
        commit: Commit<'_>,
    ) -> Result<(), CommitRefusal> {
        let (number, by) = self.stamp(epoch);
        let written = match self.write_over(id, (epoch, &by), version, &commit).await {
            Ok((reply, link)) => {
                if let Reply::Renewed = reply {
                    let logged = commit.after.streams.iter().filter(|(_, log)| !log.events.is_empty());
                    self.renew(id, logged.map(|(stream, _)| *stream)).await;
                }
                match reply.done() {
                    Ok(()) => self.replicate(id, &link, &commit).await,
                    refused => refused,
                }
            }
            Err(refusal) => Err(refusal),
        };
        match written {
            // Of one that another owner has, nothing is to be found again.
            Ok(()) | Err(CommitRefusal::Stale) => self.doubts.settle(id),
            Err(CommitRefusal::Down) => self.doubts.add(id, version, number),
            Err(CommitRefusal::Regress | CommitRefusal::Conflict) => {}
        }
        self.refused(written)
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, CommitRefusal> {
        self.refused(self.read(id).await)
    }

    async fn answered(&self, id: &SessionId, key: &str) -> Result<Option<Answered>, CommitRefusal> {
        let mut cmd = SCRIPTS.answered.call(&[self.keys.done(id)]);
        cmd.arg(key);
        let sent = self.lines.get().send(&cmd).await;
        let (value, _) = sent.map_err(|failure| self.failed(&failure))?;
        Ok(if let Value::BulkString(kept) = value { call::remembered(key, kept) } else { None })
    }

    async fn repair(&self, id: &SessionId, epoch: Epoch, stored: &Stored) -> Result<(), CommitRefusal> {
        self.write_back(id, &Instead::UpTo(stored.version), (epoch, &self.stamp(epoch).1), stored).await
    }

    async fn repair_what_is_there(
        &self,
        id: &SessionId,
        epoch: Epoch,
        stored: &Stored,
    ) -> Result<(), CommitRefusal> {
        self.write_back(id, &Instead::Before(stored.version), (epoch, &self.stamp(epoch).1), stored).await
    }

    async fn touch(&self, id: &SessionId) -> Result<(), CommitRefusal> {
        let (session, line) = (self.keys.session(id), self.lines.get());
        let mut pipeline = Pipeline::new();
        pipeline.cmd("PEXPIRE").arg(&session).arg(self.life_ms());
        pipeline.cmd("HKEYS").arg(&session);
        let values = line.read(&pipeline).await.map_err(|failure| self.failed(&failure))?;
        let fields = values.into_iter().nth(1).map(Vec::<String>::from_redis_value);
        let fields = fields.and_then(Result::ok).unwrap_or_default();
        let stream = |field: &String| Some(StreamId(field.strip_prefix(names::STREAM)?.parse().ok()?));
        self.renew(id, fields.iter().filter_map(stream)).await;
        Ok(())
    }

    async fn remove(&self, id: &SessionId, epoch: Epoch) -> Result<(), CommitRefusal> {
        // Most sessions have no stream but their own.
        let mut streams = vec![StreamId::OWN];
        let removed = loop {
            let places = Places::new(&self.keys, id, streams.iter().copied());
            let mut cmd = SCRIPTS.remove.call(places.all());
            match self.ask(cmd.arg(epoch.0)).await {
                Ok((Reply::Streams(more), _)) if streams.len() == 1 => streams.extend(more),
                Ok((reply, _)) => break reply.done(),
                Err(refusal) => break Err(refusal),
            }
        };
        self.doubts.settle(id);
        self.refused(removed)
    }

    async fn is_up(&self) -> bool {
        self.lines.get().send(&::redis::cmd("PING")).await.is_ok()
    }

    fn is_outside(&self) -> bool {
        true
    }

    async fn live_in(&self, slots: SlotCount) -> Result<(), Unfit> {
        let key = self.keys.slots();
        let mut cmd = SCRIPTS.slots.call(std::slice::from_ref(&key));
        let sent = self.lines.get().send(cmd.arg(slots.get())).await;
        let made = sent.map_err(|failure| self.failed(&failure)).ok();
        let made = made.and_then(|(value, _)| u64::from_redis_value(value).ok());
        let made = made.ok_or(Unfit::Down { place: "store.redis" })?;
        if made <= u64::from(slots.get()) {
            return Ok(());
        }
        let place = "the Redis of store.redis".to_owned();
        let way_out =
            format!("take another store.key_prefix, or delete the key {key} there once nobody needs them");
        Err(Unfit::Larger { asked: slots, made, place, way_out })
    }

    async fn name(&self, proposed: &str) -> Result<String, Unfit> {
        let mut cmd = SCRIPTS.name.call(&[self.keys.name()]);
        let sent = self.lines.get().send(cmd.arg(proposed)).await;
        let name = sent.map_err(|failure| self.failed(&failure)).ok();
        let name = name.and_then(|(value, _)| String::from_redis_value(value).ok());
        name.ok_or(Unfit::Nameless { place: "store.redis" })
    }
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        let shorts = "trunkline_store_replicas_late";
        let short =
            |then| metrics.counter(shorts, "Commits that replicas did not have in time", &[("then", then)]);
        Self {
            refusals: Refusals::new(metrics),
            refused_short: short("refused"),
            went_short: short("delivered"),
        }
    }
}
