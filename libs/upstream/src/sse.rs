//! Reads server-sent events out of bytes as they come.
//!
//! Owns: line ends, fields, bounds. Must not know: HTTP, JSON, time.

use std::collections::VecDeque;
use std::time::Duration;

/// What `retry` is held to.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its kind; `message` unless it says otherwise.
    pub name: String,
    /// Its data lines, joined by line feeds.
    pub data: String,
}

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line without end.
    #[error("a line of the event stream is longer than {0} bytes")]
    Line(usize),
    /// An event without end.
    #[error("an event is longer than {0} bytes")]
    Event(usize),
    /// Something that is not text.
    #[error("the event stream is not UTF-8")]
    NotText,
}

/// Takes bytes, gives events.
#[derive(Debug)]
pub struct Parser {
    max_line: usize,
    max_event: usize,
    line: Vec<u8>,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// Nothing was read yet: a byte order mark may stand here.
    at_start: bool,
    name: String,
    data: String,
    has_data: bool,
    ready: VecDeque<Event>,
    last_id: Option<String>,
    retry: Option<Duration>,
}

impl Parser {
    /// Reads lines and events up to these lengths.
    #[must_use]
    pub fn new(max_line: usize, max_event: usize) -> Self {
        Self {
            max_line,
            max_event,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            name: String::new(),
            data: String::new(),
            has_data: false,
            ready: VecDeque::new(),
            last_id: None,
            retry: None,
        }
    }

    /// Takes what came.
    ///
    /// # Errors
    /// [`SseError`] when the stream cannot be read on; events before that are still given.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SseError> {
        while let Some(&first) = bytes.first() {
            if self.after_cr {
                self.after_cr = false;
                if first == b'\n' {
                    bytes = &bytes[1..];
                    continue;
                }
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > self.max_line {
                return Err(SseError::Line(self.max_line));
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line()?;
        }
        Ok(())
    }

    /// The next event that is complete.
    pub fn event(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// Id of the last event, where the server gives them.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref().filter(|id| !id.is_empty())
    }

    /// How long the server asks to wait before coming back, held to 1-60 s.
    #[must_use]
    pub const fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Begins again with another stream that continues this one: what was cut off is forgotten, where to continue is not.
    pub fn restart(&mut self) {
        self.line.clear();
        self.name.clear();
        self.data.clear();
        self.has_data = false;
        self.after_cr = false;
        self.at_start = true;
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let text = std::str::from_utf8(&line).map_err(|_| SseError::NotText)?;
        let text = match std::mem::replace(&mut self.at_start, false) {
            true => text.strip_prefix('\u{feff}').unwrap_or(text),
            false => text,
        };
        if text.is_empty() {
            self.end_event();
            return Ok(());
        }
        let (field, value) = match text.split_once(':') {
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (text, ""),
        };
        match field {
            "data" => {
                if self.data.len() + value.len() + 1 > self.max_event {
                    return Err(SseError::Event(self.max_event));
                }
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => self.last_id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit()) => {
                let asked = value.parse().map_or(RETRY.1, Duration::from_millis);
                self.retry = Some(asked.clamp(RETRY.0, RETRY.1));
            }
            // Comments begin with the colon, so their field is empty; other fields have no meaning.
            _ => {}
        }
        // The line's memory serves the next one, unless it was a giant.
        if line.capacity() <= 64 * 1024 {
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    fn end_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            let name = if name.is_empty() { "message".to_owned() } else { name };
            self.ready.push_back(Event { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> (Vec<(String, String)>, Option<String>, Option<Duration>) {
        let mut parser = Parser::new(1 << 10, 1 << 12);
        for chunk in chunks {
            parser.feed(chunk).unwrap();
        }
        let mut events = Vec::new();
        while let Some(event) = parser.event() {
            events.push((event.name, event.data));
        }
        (events, parser.last_id().map(str::to_owned), parser.retry())
    }

    fn messages(data: &[&str]) -> Vec<(String, String)> {
        data.iter().map(|data| ("message".to_owned(), (*data).to_owned())).collect()
    }

    #[test]
    fn every_line_end_ends_a_line() {
        for stream in ["data: a\ndata: b\n\ndata:c\n\n", "data: a\rdata: b\r\rdata:c\r\r"] {
            assert_eq!(read(&[stream.as_bytes()]).0, messages(&["a\nb", "c"]), "{stream:?}");
        }
        let stream = "data: a\r\ndata: b\r\n\r\ndata:c\r\n\r\n";
        assert_eq!(read(&[stream.as_bytes()]).0, messages(&["a\nb", "c"]));
        assert_eq!(
            read(&[b"data: a\r", b"\n\r", b"\n"]).0,
            messages(&["a"]),
            "CR and LF in chunks of their own"
        );
    }

    #[test]
    fn fields_comments_and_marks() {
        let stream = "\u{feff}: hello\nevent: ping\nid: 7\nretry: 2500\nunknown: x\ndata\n\n";
        let (events, id, retry) = read(&[stream.as_bytes()]);
        assert_eq!(events, [("ping".to_owned(), String::new())]);
        assert_eq!((id.as_deref(), retry), (Some("7"), Some(Duration::from_millis(2500))));
        assert_eq!(read(&[b"data:  two spaces\n\n"]).0, messages(&[" two spaces"]));
        assert_eq!(read(&[b"event: x\n\ndata: y\n\n"]).0, messages(&["y"]), "a name alone is no event");
        assert_eq!(read(&[b"data: cut off"]).0, messages(&[]), "an event without end is none");
        assert_eq!(read(&[b"id: a\0b\ndata: x\n\n"]).1, None);
    }

    #[test]
    fn retry_is_held_to_bounds() {
        let table = [("0", 1), ("999999999", 60), ("99999999999999999999999", 60), ("5000", 5)];
        for (asked, seconds) in table {
            let stream = format!("retry: {asked}\n");
            assert_eq!(read(&[stream.as_bytes()]).2, Some(Duration::from_secs(seconds)), "{asked}");
        }
        for asked in ["", "-1", "soon", "1.5"] {
            assert_eq!(read(&[format!("retry: {asked}\n").as_bytes()]).2, None, "{asked}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let mut parser = Parser::new(100, 250);
        assert_eq!(parser.feed(&[b'x'; 101]), Err(SseError::Line(100)));
        let mut parser = Parser::new(100, 250);
        let line = format!("data: {}\n", "x".repeat(90));
        assert_eq!(parser.feed(line.as_bytes()), Ok(()));
        assert_eq!(parser.feed(line.as_bytes()), Ok(()));
        assert_eq!(parser.feed(line.as_bytes()), Err(SseError::Event(250)));
        let mut parser = Parser::new(100, 250);
        assert_eq!(parser.feed(b":"), Ok(()));
        assert_eq!((0..).find_map(|_| parser.feed(b"endless").err()), Some(SseError::Line(100)));
        assert_eq!(Parser::new(100, 250).feed(b"data: \xff\n"), Err(SseError::NotText));
    }

    proptest! {
        /// Wherever the network cuts, also inside a character, the same events come out.
        #[test]
        fn chunks_do_not_matter(data in proptest::collection::vec("[^\r\n\0]{0,20}", 1..5), ends in 0..3_usize, cut in 1..9_usize) {
            let end = ["\n", "\r", "\r\n"][ends];
            let stream: String = data.iter().map(|data| format!("id: é{end}data: {data}{end}{end}")).collect();
            let whole = read(&[stream.as_bytes()]);
            prop_assert_eq!(&whole.0, &messages(&data.iter().map(String::as_str).collect::<Vec<_>>()));
            let chunks: Vec<&[u8]> = stream.as_bytes().chunks(cut).collect();
            prop_assert_eq!(read(&chunks), whole);
        }
    }
}
