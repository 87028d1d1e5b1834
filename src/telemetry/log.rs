//! Logging: levels error, warn, info, http, debug; text (with colours on a terminal) or JSON; numbers masked.
//!
//! Shell. Lines go through a bounded queue to a thread of their own, so that nobody waits for stderr; when the
//! queue is full the line is dropped. `http` lies between info and debug: events of the target `http`.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// The target of request lines: `tracing::info!(target: HTTP, ...)`.
pub const HTTP: &str = "http";

/// Lines that may wait for a slow stderr.
const LINES_MAX: usize = 16 * 1024;

/// Writes what still waits when it is dropped: hold it until the process ends.
#[must_use]
pub struct LogGuard {
    _worker: WorkerGuard,
}

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogGuard")
    }
}

/// Starts logging to stderr for the whole process. Errs when logging was started before.
pub fn init(level: &str, json: bool) -> Result<LogGuard, SetGlobalDefaultError> {
    let (writer, guard) = writer(std::io::stderr());
    let format = Format::choose(
        json,
        std::io::stderr().is_terminal(),
        std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty()),
    );
    let layer = layer(level, format, writer);
    tracing::subscriber::set_global_default(Registry::default().with(layer))?;
    Ok(LogGuard { _worker: guard })
}

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Json,
    Text,
    Colours,
}

impl Format {
    /// Colours are for people at a terminal who did not decline them (no-color.org).
    fn choose(json: bool, is_terminal: bool, no_color: bool) -> Self {
        match (json, is_terminal && !no_color) {
            (true, _) => Self::Json,
            (false, true) => Self::Colours,
            (false, false) => Self::Text,
        }
    }
}

fn writer(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("log")
        .finish(to)
}

fn layer(
    level: &str,
    format: Format,
    writer: NonBlocking,
) -> Box<dyn Layer<Registry> + Send + Sync> {
    let base = fmt::layer()
        .with_writer(writer)
        .with_ansi(format == Format::Colours);
    if format == Format::Json {
        base.json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter(filter(level))
            .boxed()
    } else {
        base.with_filter(filter(level)).boxed()
    }
}

/// What a level lets through. Dependencies never go below info: their debug lines know nothing of our secrets.
fn filter(level: &str) -> Targets {
    let (ours, http) = match level {
        "error" => (LevelFilter::ERROR, LevelFilter::ERROR),
        "warn" => (LevelFilter::WARN, LevelFilter::WARN),
        "http" => (LevelFilter::INFO, LevelFilter::INFO),
        "debug" => (LevelFilter::DEBUG, LevelFilter::DEBUG),
        _ => (LevelFilter::INFO, LevelFilter::WARN),
    };
    Targets::new()
        .with_default(ours.min(LevelFilter::INFO))
        .with_target("voxrelay", ours)
        .with_target(HTTP, http)
}

/// What a field of a log line may hold of a text that a peer made, characters.
pub const BRIEF_CHARS_MAX: usize = 256;

/// A text that a peer made, as it may stand in a log line: at most `BRIEF_CHARS_MAX` characters and an ellipsis, with
/// control and direction characters escaped, so that nobody writes lines, colours or megabytes into our logs.
pub fn brief(text: &str) -> Cow<'_, str> {
    // Beside controls: marks that turn the direction of what follows, and separators of lines.
    let is_bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let cut = text.char_indices().nth(BRIEF_CHARS_MAX);
    let kept = cut.map_or(text, |(at, _)| &text[..at]);
    if cut.is_none() && !kept.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(kept.len() + 8);
    for c in kept.chars() {
        match is_bad(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    if cut.is_some() {
        shown.push('\u{2026}');
    }
    Cow::Owned(shown)
}

/// A phone number as it may be logged: `+14155550100` becomes `+1415*****00`. Every digit counts, wherever it
/// stands (`sip:` addresses, blanks between groups); texts with fewer than five digits (short codes' names,
/// `anonymous`) stay as they are. At most 64 characters.
pub fn mask_number(number: &str) -> String {
    let digits = number.chars().filter(char::is_ascii_digit).count();
    let head = if digits >= 9 { 4 } else { 0 };
    let mut seen = 0;
    let mask = |c: char| {
        if digits < 5 || !c.is_ascii_digit() {
            return if c.is_control() { '?' } else { c };
        }
        seen += 1;
        if seen <= head || seen > digits - 2 {
            c
        } else {
            '*'
        }
    };
    number.chars().map(mask).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic under it").extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: Format) -> String {
        let lines = Lines::default();
        let (writer, guard) = writer(lines.clone());
        let subscriber = Registry::default().with(layer(level, format, writer));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("an error");
            tracing::warn!("a warning");
            tracing::info!(call = "c1", "an info");
            tracing::info!(target: HTTP, "a request");
            tracing::debug!("a detail");
            tracing::debug!(target: "rustls::client", "not ours");
        });
        drop(guard); // Writes what waits.
        let bytes = lines.0.lock().expect("no panic under it").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn each_level_shows_itself_and_those_before_it() {
        let all = ["an error", "a warning", "an info", "a request", "a detail"];
        let levels = ["error", "warn", "info", "http", "debug"];
        for (n, level) in levels.iter().enumerate() {
            let text = logged(level, Format::Text);
            for (m, line) in all.iter().enumerate() {
                assert_eq!(text.contains(line), m <= n, "{line} at {level}:\n{text}");
            }
            assert!(!text.contains("not ours"), "{text}");
        }
    }

    #[test]
    fn colours_are_for_a_terminal_alone() {
        assert_eq!(Format::choose(false, true, false), Format::Colours);
        assert_eq!(Format::choose(false, true, true), Format::Text);
        assert_eq!(Format::choose(false, false, false), Format::Text);
        assert_eq!(Format::choose(true, true, false), Format::Json);
        assert!(logged("info", Format::Colours).contains('\u{1b}'));
        assert!(!logged("info", Format::Text).contains('\u{1b}'));
        assert!(!logged("info", Format::Json).contains('\u{1b}'));
    }

    #[test]
    fn json_lines_are_objects_with_time_level_and_fields() {
        let text = logged("info", Format::Json);
        let line = text
            .lines()
            .find(|l| l.contains("an info"))
            .expect("logged");
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["level"], "INFO");
        assert_eq!(value["message"], "an info");
        assert_eq!(value["call"], "c1");
        assert!(value["timestamp"].is_string());
    }

    #[test]
    fn what_peers_write_is_cut_and_escaped() {
        assert_eq!(brief("as it is: \u{e4}"), "as it is: \u{e4}");
        assert_eq!(
            brief("a\r\n\u{1b}[31m\u{0}\u{202e}b"),
            r"a\r\n\u{1b}[31m\u{0}\u{202e}b"
        );
        let long = "\u{e4}".repeat(BRIEF_CHARS_MAX);
        assert_eq!(brief(&long), long);
        let longer = "\u{e4}".repeat(3_000_000);
        assert_eq!(brief(&longer), format!("{long}\u{2026}"));
    }

    #[test]
    fn numbers_are_masked_in_every_writing() {
        assert_eq!(mask_number("+14155550100"), "+1415*****00");
        assert_eq!(mask_number("+1 (415) 555-0100"), "+1 (415) ***-**00");
        assert_eq!(mask_number("sip:+14155550100@pbx"), "sip:+1415*****00@pbx");
        assert_eq!(mask_number("55501"), "***01");
        assert_eq!(mask_number("anonymous"), "anonymous");
        assert_eq!(mask_number(""), "");
        assert_eq!(mask_number("a\nb"), "a?b");
        assert_eq!(mask_number(&"x".repeat(500)).len(), 64);
    }
}
