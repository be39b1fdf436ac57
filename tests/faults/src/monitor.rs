//! What both Redis do, as they tell whoever asks them with MONITOR: fences, commits, events that are kept, and those that are
//! withdrawn because their commit was given up by its owner and written over, or lost with the primary that kept them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use history::line::{Place, Source, What};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::recorder::{Pen, Recorder, digest};

/// The commands that change what is asked about here.
const INTERESTING: [&str; 5] = ["hset", "set", "unlink", "xadd", "xtrim"];

/// Listens to what both Redis do, for as long as it lives.
pub struct Monitors {
    _listening: JoinSet<()>,
    seen: Arc<Mutex<Vec<Told>>>,
}

/// Something that Redis did.
struct Told {
    /// Nanoseconds since 1970.
    at: u64,
    node: usize,
    words: Vec<String>,
    /// Whether a script did it here, as opposed to hearing of it from the primary.
    here: bool,
}

impl Monitors {
    /// Begins to listen.
    #[must_use]
    pub fn start(ports: &[u16]) -> Self {
        let seen: Arc<Mutex<Vec<Told>>> = Arc::default();
        let mut listening = JoinSet::new();
        for (node, port) in ports.iter().copied().enumerate() {
            listening.spawn(listen(node, crate::stores::local(port), Arc::clone(&seen)));
        }
        Self { _listening: listening, seen }
    }

    /// Writes down what was heard. `names` are the clients' names of sessions, by id.
    pub fn write(&self, recorder: &Recorder, names: &BTreeMap<String, String>) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let pens: Vec<Pen> =
            (1..=2).map(|node| recorder.pen(Source::Store, &format!("redis-{node}"))).collect();
        let mut kept: HashMap<(String, Place), ()> = HashMap::new();
        let mut logs: BTreeMap<usize, Logs> = BTreeMap::new();
        let mut heard = Heard::default();
        for told in seen {
            let Some(pen) = pens.get(told.node) else { continue };
            let at = told.at.saturating_sub(recorder.begun_unix());
            if told.here {
                logs.entry(told.node).or_default().follow(&told);
            }
            let Some((session, what)) = meaning(&told) else { continue };
            heard.hear(&told, session.as_deref(), &what);
            let session = session.map(|id| names.get(&id).cloned().unwrap_or(id));
            if let (Some(session), What::Log { at: place, .. }) = (&session, &what)
                && kept.insert((session.clone(), place.clone()), ()).is_some()
            {
                continue;
            }
            pen.write_at(at, session.as_deref(), what);
        }
        let say = |node: usize, id: String, what: What| {
            let session = names.get(&id).cloned().unwrap_or(id);
            if let Some(pen) = pens.get(node) {
                pen.write(Some(&session), what);
            }
        };
        for (node, logs) in logs {
            logs.withdrawn().for_each(|(id, at)| say(node, id, What::Withdrawn { at }));
        }
        heard.lost().for_each(|(node, (id, at))| say(node, id, What::Lost { at }));
    }
}

/// An event of a session, by the session's id.
type Entry = (String, Place);

/// Which server heard of which event.
#[derive(Default)]
struct Heard {
    events: BTreeMap<usize, BTreeSet<Entry>>,
    /// Who was the primary last.
    primary: Option<usize>,
}

impl Heard {
    fn hear(&mut self, told: &Told, session: Option<&str>, what: &What) {
        if told.here {
            self.primary = Some(told.node);
        }
        if let (Some(session), What::Log { at, .. }) = (session, what) {
            self.events.entry(told.node).or_default().insert((session.to_owned(), at.clone()));
        }
    }

    /// What went with another primary: the last one never heard of it, from that one or from an owner that wrote it again.
    fn lost(mut self) -> impl Iterator<Item = (usize, Entry)> {
        let kept = self.primary.and_then(|primary| self.events.remove(&primary)).unwrap_or_default();
        let events = self
            .events
            .into_iter()
            .flat_map(|(node, events)| events.into_iter().map(move |event| (node, event)));
        events.filter(move |(_, event)| !kept.contains(event))
    }
}

/// The events that one server keeps, by session.
#[derive(Default)]
struct Logs {
    kept: HashMap<String, BTreeSet<Place>>,
    /// Of sessions whose hash was just removed, by a script that writes it anew or for good: what was removed with it. Streams that are
    /// over are left alone, and go when their time is up.
    removed: HashMap<String, BTreeSet<Place>>,
    /// Of sessions that are being written anew: what was there.
    replaced: HashMap<String, BTreeSet<Place>>,
    /// Of sessions that were written anew: what did not come back.
    missing: HashMap<String, BTreeSet<Place>>,
}

impl Logs {
    /// What scripts do on this server, in their order.
    fn follow(&mut self, told: &Told) {
        let mut words = told.words.iter().map(String::as_str);
        let Some(command) = words.next().map(str::to_ascii_lowercase) else { return };
        let Some((_, rest)) = words.next().and_then(|key| key.split_once("}:")) else { return };
        let arguments: Vec<&str> = words.collect();
        match (command.as_str(), rest.split(':').collect::<Vec<_>>().as_slice()) {
            ("unlink", ["sess", session]) => {
                self.removed.insert((*session).to_owned(), BTreeSet::new());
            }
            ("unlink", ["log", session, stream]) => {
                let of_stream = |place: &Place| place.stream == *stream;
                let kept = self.kept.entry((*session).to_owned()).or_default();
                let gone: Vec<Place> = kept.iter().filter(|place| of_stream(place)).cloned().collect();
                kept.retain(|place| !of_stream(place));
                if let Some(removed) = self.removed.get_mut(*session) {
                    removed.extend(gone);
                }
            }
            ("hset", ["sess", session]) => {
                if let Some(removed) = self.removed.remove(*session) {
                    self.missing.entry((*session).to_owned()).or_default().extend(removed.iter().cloned());
                    self.replaced.insert((*session).to_owned(), removed);
                }
                // The last of the commands that write a session. Its end is written as the whole of it, without its events: that withdraws
                // none, and leaves those withdrawn that were before.
                let is_end = || arguments.iter().any(|field| field.contains(r#""ended":true"#));
                if arguments.first() == Some(&"ver")
                    && let Some(replaced) = self.replaced.remove(*session)
                    && is_end()
                    && let Some(missing) = self.missing.get_mut(*session)
                {
                    missing.retain(|place| !replaced.contains(place));
                }
            }
            ("xadd", ["log", session, stream]) => {
                let Some(place) = arguments.first().and_then(|id| place(stream, id)) else { return };
                if let Some(missing) = self.missing.get_mut(*session) {
                    missing.remove(&place);
                }
                self.kept.entry((*session).to_owned()).or_default().insert(place);
            }
            ("xtrim", ["log", session, stream]) => self.trim(session, stream, &arguments),
            _other => {}
        }
    }

    /// Keeps the last ones of a stream.
    fn trim(&mut self, session: &str, stream: &str, arguments: &[&str]) {
        let most = arguments.last().and_then(|most| most.parse::<usize>().ok());
        let (Some(most), Some(kept)) = (most, self.kept.get_mut(session)) else { return };
        let of_stream: Vec<Place> = kept.iter().filter(|place| place.stream == stream).cloned().collect();
        for place in of_stream.iter().rev().skip(most) {
            kept.remove(place);
        }
    }

    fn withdrawn(self) -> impl Iterator<Item = Entry> {
        let of_session = |(session, places): (String, BTreeSet<Place>)| {
            places.into_iter().map(move |place| (session.clone(), place))
        };
        self.missing.into_iter().flat_map(of_session)
    }
}

/// Where an event stands, by the id of its entry.
fn place(stream: &str, id: &str) -> Option<Place> {
    let (epoch, seq) = id.split_once('-')?;
    Some(Place { stream: stream.to_owned(), epoch: epoch.parse().ok()?, seq: seq.parse().ok()? })
}

async fn listen(node: usize, address: SocketAddr, seen: Arc<Mutex<Vec<Told>>>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await
            && stream.write_all(b"MONITOR\r\n").await.is_ok()
        {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
                if let Some(told) = told(node, &line) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                }
                line.clear();
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A line such as `+1700000000.123456 [0 lua] "HSET" "{s:7}:sess:x" ..`; `None` for what is of no interest.
fn told(node: usize, line: &[u8]) -> Option<Told> {
    let text = String::from_utf8_lossy(line);
    let (time, rest) = text.strip_prefix('+')?.split_once(" [")?;
    let (from, command) = rest.split_once("] ")?;
    let name = command.split(' ').next()?.trim_matches('"').to_ascii_lowercase();
    if !INTERESTING.contains(&name.as_str()) {
        return None;
    }
    let (seconds, micros) = time.split_once('.')?;
    let at = seconds.parse::<u64>().ok()? * 1_000_000_000 + micros.parse::<u64>().ok()? * 1_000;
    Some(Told { at, node, words: words(command.trim_end()), here: from.ends_with("lua") })
}

/// Quoted words with their escapes undone.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut bytes = command.bytes();
    let mut word: Option<Vec<u8>> = None;
    while let Some(byte) = bytes.next() {
        match (byte, &mut word) {
            (b'"', None) => word = Some(Vec::new()),
            (b'"', Some(_)) => {
                let whole = word.take().unwrap_or_default();
                words.push(String::from_utf8_lossy(&whole).into_owned());
            }
            (b'\\', Some(word)) => match bytes.next() {
                Some(b'n') => word.push(b'\n'),
                Some(b'r') => word.push(b'\r'),
                Some(b't') => word.push(b'\t'),
                Some(b'a') => word.push(7),
                Some(b'b') => word.push(8),
                Some(b'x') => {
                    let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                    let text = String::from_utf8_lossy(&digits).into_owned();
                    word.push(u8::from_str_radix(&text, 16).unwrap_or(b'?'));
                }
                Some(other) => word.push(other),
                None => {}
            },
            (other, Some(word)) => word.push(other),
            (_, None) => {}
        }
    }
    words
}

/// What Redis did, as it stands in a history: the session's id and the line.
fn meaning(told: &Told) -> Option<(Option<String>, What)> {
    let mut words = told.words.iter().map(String::as_str);
    let (command, key) = (words.next()?.to_ascii_lowercase(), words.next()?);
    let (slot, rest) = key.split_once("{s:")?.1.split_once("}:")?;
    let slot = slot.parse().ok()?;
    let arguments: Vec<&str> = words.collect();
    match (command.as_str(), rest.split(':').collect::<Vec<_>>().as_slice()) {
        ("set", ["fence"]) if told.here => {
            Some((None, What::Fence { slot, epoch: arguments.first()?.parse().ok()? }))
        }
        ("hset", ["sess", session]) if told.here => {
            let by = arguments.chunks(2).find_map(|pair| match pair {
                ["by", by] => Some(*by),
                _ => None,
            })?;
            let epoch = by.split('.').next()?.parse().ok()?;
            Some((Some((*session).to_owned()), What::Commit { slot, epoch }))
        }
        ("xadd", ["log", session, stream]) => {
            let at = place(stream, arguments.first()?)?;
            Some((Some((*session).to_owned()), What::Log { at, data: digest(arguments.get(2)?) }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_did_is_understood() {
        let line = br#"+1700000000.000123 [0 lua] "XADD" "{s:7}:log:v1.k1.007.x:3" "2-5" "m" "{\"a\":\"\\n\xc3\xa4\"}""#;
        let told = told(0, line).unwrap();
        assert_eq!(told.at, 1_700_000_000_000_123_000);
        let (session, what) = meaning(&told).unwrap();
        assert_eq!(session.as_deref(), Some("v1.k1.007.x"));
        let at = Place { stream: "3".into(), epoch: 2, seq: 5 };
        assert_eq!(what, What::Log { at, data: "{\"a\":\"\\n\u{e4}\"}".into() });
    }

    #[test]
    fn commits_and_fences_are_told_apart() {
        let commit = br#"+1.000001 [0 lua] "HSET" "{s:7}:sess:id" "ver" "4" "by" "3.ab.9""#;
        let (session, what) = meaning(&told(0, commit).unwrap()).unwrap();
        assert_eq!((session.as_deref(), what), (Some("id"), What::Commit { slot: 7, epoch: 3 }));
        let fence = br#"+1.000001 [0 lua] "SET" "{s:7}:fence" "4""#;
        assert_eq!(meaning(&told(0, fence).unwrap()).unwrap().1, What::Fence { slot: 7, epoch: 4 });
        let replicated = br#"+1.000001 [0 127.0.0.1:1] "SET" "{s:7}:fence" "4""#;
        assert!(meaning(&told(0, replicated).unwrap()).is_none());
    }

    #[test]
    fn what_only_an_earlier_primary_had_is_lost() {
        let mut heard = Heard::default();
        let mut say = |node: usize, from: &str, id: &str| {
            let line = format!(r#"+1.000001 [0 {from}] "XADD" "{{s:7}}:log:a:3" "{id}" "m" "x""#);
            let told = told(node, line.as_bytes()).unwrap();
            let (session, what) = meaning(&told).unwrap();
            heard.hear(&told, session.as_deref(), &what);
        };
        for id in ["1-1", "1-2", "1-3"] {
            say(0, "lua", id);
        }
        say(1, "127.0.0.1:1", "1-1");
        // Its owner still knew the second one.
        say(1, "lua", "1-2");
        say(1, "lua", "1-4");
        let lost: Vec<_> = heard.lost().collect();
        assert_eq!(lost, [(0, ("a".to_owned(), Place { stream: "3".into(), epoch: 1, seq: 3 }))]);
    }

    #[test]
    fn what_a_script_writes_over_is_withdrawn_unless_it_comes_back() {
        let mut logs = Logs::default();
        let mut say = |command: &str| {
            let line = format!("+1.000001 [0 lua] {command}");
            logs.follow(&told(0, line.as_bytes()).unwrap());
        };
        for id in ["1-1", "1-2", "1-3", "1-4"] {
            say(&format!(r#""XADD" "{{s:7}}:log:a:3" "{id}" "m" "x""#));
        }
        say(r#""XTRIM" "{s:7}:log:a:3" "MAXLEN" "3""#);
        say(r#""XADD" "{s:7}:log:a:4" "1-1" "m" "x""#);
        say(r#""UNLINK" "{s:7}:log:a:4""#);
        // Written anew, with less of one stream, and without what is over.
        say(r#""XADD" "{s:7}:log:a:5" "1-1" "m" "x""#);
        say(r#""UNLINK" "{s:7}:sess:a""#);
        say(r#""UNLINK" "{s:7}:log:a:3""#);
        say(r#""HSET" "{s:7}:sess:a" "v" "1""#);
        say(r#""XADD" "{s:7}:log:a:3" "1-2" "m" "x""#);
        say(r#""XADD" "{s:7}:log:a:3" "1-3" "m" "x""#);
        say(r#""HSET" "{s:7}:sess:a" "ver" "4" "by" "3.ab.9""#);
        say(r#""XADD" "{s:7}:log:b:1" "1-1" "m" "x""#);
        // They end.
        for (session, stream) in [("b", 1), ("a", 3)] {
            say(&format!(r#""UNLINK" "{{s:7}}:sess:{session}""#));
            say(&format!(r#""UNLINK" "{{s:7}}:log:{session}:{stream}""#));
            say(&format!(r#""HSET" "{{s:7}}:sess:{session}" "v" "1""#));
            say(&format!(
                r#""HSET" "{{s:7}}:sess:{session}" "ver" "5" "by" "3.ab.9" "head" "{{\"level\":null,\"ended\":true}}""#
            ));
        }
        let withdrawn: Vec<_> = logs.withdrawn().collect();
        assert_eq!(withdrawn, [("a".to_owned(), Place { stream: "3".into(), epoch: 1, seq: 4 })]);
    }
}
