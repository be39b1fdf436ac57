//! Log lines: one line for each event, with node, role and trace, and nothing in it that a terminal or a parser obeys.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Format;
use super::scope::Scope;

/// Bytes of one field that are logged.
const MAX_FIELD: usize = 2 << 10;
const CUT: &str = "...";

/// See the module.
pub(super) struct Lines {
    pub(super) format: Format,
    pub(super) node: String,
    /// Of lines that belong to none of the roles.
    pub(super) role: &'static str,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let scope = Scope::current();
        let role = if scope.role().is_empty() { self.role } else { scope.role() };
        let trace = scope.trace().map(super::trace::Trace::id);
        let line = match self.format {
            Format::Json => self.json(role, trace.as_deref(), event),
            Format::Text => self.text(role, trace.as_deref(), event, out.has_ansi_escapes()),
        };
        writeln!(out, "{line}")
    }
}

impl Lines {
    fn json(&self, role: &str, trace: Option<&str>, event: &Event<'_>) -> String {
        let now = humantime::format_rfc3339_micros(SystemTime::now());
        let meta = event.metadata();
        let mut line = format!("{{\"timestamp\":\"{now}\",\"level\":\"{}\"", meta.level());
        for (name, value) in [("node", self.node.as_str()), ("role", role)] {
            member(&mut line, name, &quoted(value));
        }
        if let Some(trace) = trace {
            member(&mut line, "trace_id", &quoted(trace));
        }
        member(&mut line, "target", &quoted(meta.target()));
        event.record(&mut Json(&mut line));
        line.push('}');
        line
    }

    fn text(&self, role: &str, trace: Option<&str>, event: &Event<'_>, colour: bool) -> String {
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        let level = event.metadata().level();
        let (on, off) = if colour { (paint(*level), "\u{1b}[0m") } else { ("", "") };
        let mut fields = Text::default();
        event.record(&mut fields);
        let mut line = format!("{now} {on}{level:>5}{off} {role}: {}{}", fields.message, fields.rest);
        if let Some(trace) = trace {
            line.push_str(" trace_id=");
            line.push_str(trace);
        }
        line
    }
}

const fn paint(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        _ => "\u{1b}[2m",
    }
}

/// As much as is logged.
fn capped(value: &str) -> (&str, &'static str) {
    if value.len() <= MAX_FIELD {
        return (value, "");
    }
    let end = (0..=MAX_FIELD).rev().find(|end| value.is_char_boundary(*end)).unwrap_or_default();
    (&value[..end], CUT)
}

/// Whether something reads it as more than text: control characters, line separators, and what turns the direction of writing.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A JSON string.
fn quoted(value: &str) -> String {
    let (value, cut) = capped(value);
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            c if is_unsafe(c) => _ = write!(text, "\\u{:04x}", u32::from(c)),
            c => text.push(c),
        }
    }
    text.push_str(cut);
    text.push('"');
    text
}

fn member(line: &mut String, name: &str, value: &str) {
    line.push(',');
    line.push_str(&quoted(name));
    line.push(':');
    line.push_str(value);
}

struct Json<'a>(&'a mut String);

/// What a line says of itself has its name; a field that is called the same is about something else.
fn name_of(field: &Field) -> &str {
    match field.name() {
        "timestamp" => "of_timestamp",
        "level" => "of_level",
        "node" => "of_node",
        "role" => "of_role",
        "trace_id" => "of_trace",
        "target" => "of_target",
        name => name.strip_prefix("r#").unwrap_or(name),
    }
}

impl Visit for Json<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        member(self.0, name_of(field), &quoted(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        member(self.0, name_of(field), if value { "true" } else { "false" });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        member(self.0, name_of(field), &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        member(self.0, name_of(field), &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        member(self.0, name_of(field), &quoted(&shown(value)));
    }
}

#[derive(Default)]
struct Text {
    message: String,
    rest: String,
}

impl Text {
    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = escaped(value);
            return;
        }
        let value = escaped(value);
        // A value must not look like further fields.
        let plain = !value.is_empty() && !value.contains([' ', '"', '=']);
        let name = name_of(field);
        // Writing into a string cannot fail.
        _ = match plain {
            true => write!(self.rest, " {name}={value}"),
            false => write!(self.rest, " {name}=\"{}\"", value.replace('"', "\\\"")),
        };
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &shown(value));
    }
}

fn escaped(value: &str) -> String {
    let (value, cut) = capped(value);
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if is_unsafe(c) => _ = write!(text, "\\u{{{:x}}}", u32::from(c)),
            c => text.push(c),
        }
    }
    text.push_str(cut);
    text
}

/// A value as text, no longer than is logged.
fn shown(value: &dyn fmt::Debug) -> String {
    struct Cut(String);
    impl fmt::Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.push_str(text);
            // One byte more than is logged shows that something is missing.
            if self.0.len() > MAX_FIELD { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut cut = Cut(String::new());
    // An error means that it was cut.
    _ = write!(cut, "{value:?}");
    cut.0
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::telemetry::{Side, Trace};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, act: impl FnOnce()) -> String {
        let sink = Sink::default();
        let out = sink.clone();
        let lines = Lines { format, node: "n1".into(), role: "gateway" };
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(lines)
            .with_writer(move || out.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_inside_a_request_names_node_role_and_trace() {
        let trace = Trace::read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "");
        let line = logged(Format::Json, || {
            let scope = Scope::of_caller("session", trace).child("session", Side::Internal, || "x".into());
            let _inside = scope.enter();
            tracing::warn!(slot = 7, owner = "n2", lost = true, "lease lost");
        });
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = [
            ("level", "\"WARN\""),
            ("node", "\"n1\""),
            ("role", "\"session\""),
            ("trace_id", "\"0af7651916cd43dd8448eb211c80319c\""),
            ("message", "\"lease lost\""),
            ("slot", "7"),
            ("owner", "\"n2\""),
            ("lost", "true"),
        ];
        for (name, expected) in expected {
            assert_eq!(value[name].to_string(), expected, "{name} in {line}");
        }
    }

    #[test]
    fn nothing_that_is_logged_is_obeyed() {
        let nasty = "a\u{1b}[31m\r\nlevel=ERROR \u{7f}\u{9b}1m\u{202e}\u{2028}\"\\ end";
        for format in [Format::Json, Format::Text] {
            let line = logged(format, || tracing::error!(value = nasty, ?nasty, "{nasty}"));
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(!line.trim_end_matches('\n').chars().any(is_unsafe), "{line:?}");
        }
        let line = logged(Format::Json, || tracing::error!(value = nasty, "m"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["value"], nasty, "a parser gets what was meant");
    }

    #[test]
    fn a_field_is_capped() {
        for format in [Format::Json, Format::Text] {
            let line = logged(format, || {
                let long = "ü".repeat(100_000);
                tracing::error!(a = long, b = ?long, c = %long, "{long}");
            });
            assert!(line.len() < 4 * (MAX_FIELD + 64) + 200, "{}", line.len());
            assert_eq!(line.matches(CUT).count(), 4);
        }
    }

    #[test]
    fn a_text_line_reads_well() {
        let line = logged(Format::Text, || tracing::info!(address = "127.0.0.1:1", why = "so it is", "lost"));
        let (_, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, " INFO gateway: lost address=127.0.0.1:1 why=\"so it is\"\n");
    }
}
