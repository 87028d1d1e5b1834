//! A transcript as captions to a recording: WebVTT and SubRip. Core.
//!
//! Shown is what was heard; what was generated and never heard is left out.

use super::transcript::{Entry, Speaker, Transcript};
use std::fmt::Write as _;

/// How long a caption without an end stays, ms.
const STAYS_MS: u64 = 3_000;

/// WebVTT (W3C candidate recommendation of 2019-04-04): cues with the speaker as a voice span.
pub fn webvtt(transcript: &Transcript) -> String {
    let mut out = String::from("WEBVTT\n");
    for (entry, text) in heard(transcript) {
        let (from, to) = times(entry);
        let voice = match entry.speaker {
            Speaker::User => "Caller",
            Speaker::Assistant => "Agent",
        };
        let _ = write!(
            out,
            "\n{} --> {}\n<v {voice}>",
            clock(from, '.'),
            clock(to, '.')
        );
        for c in text.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                // With it "-->" can't stand in a cue.
                '>' => out.push_str("&gt;"),
                c => out.push(c),
            }
        }
        out.push('\n');
    }
    out
}

/// SubRip: numbered, with a comma before the milliseconds.
pub fn srt(transcript: &Transcript) -> String {
    let mut out = String::new();
    for (n, (entry, text)) in heard(transcript).enumerate() {
        let (from, to) = times(entry);
        let who = match entry.speaker {
            Speaker::User => "Caller",
            Speaker::Assistant => "Agent",
        };
        let _ = write!(
            out,
            "{}\n{} --> {}\n{who}: {text}\n\n",
            n + 1,
            clock(from, ','),
            clock(to, ',')
        );
    }
    out
}

/// Entries with the words to show, each on one line: an empty one would end a cue.
fn heard(transcript: &Transcript) -> impl Iterator<Item = (&Entry, String)> {
    let entries = transcript.chronological().into_iter();
    entries.filter_map(|entry| {
        let text = entry.heard_text.as_ref().unwrap_or(&entry.text);
        let words: Vec<&str> = text.split_whitespace().collect();
        (!words.is_empty()).then(|| (entry, words.join(" ")))
    })
}

fn times(entry: &Entry) -> (u64, u64) {
    let end = entry.end_ms.unwrap_or(entry.start_ms + STAYS_MS);
    (entry.start_ms, end.max(entry.start_ms + 1))
}

fn clock(ms: u64, mark: char) -> String {
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!(
        "{hours:02}:{minutes:02}:{seconds:02}{mark}{:03}",
        ms % 1_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript() -> Transcript {
        let mut transcript = Transcript::default();
        for (n, (speaker, text, heard, start_ms, end_ms)) in [
            (
                Speaker::Assistant,
                "いらっしゃいませ 一二三",
                Some("いらっしゃいませ"),
                3_723_004,
                Some(3_724_000),
            ),
            (Speaker::User, "a < b --> c\n\n& d", None, 1_500, None),
            (
                Speaker::Assistant,
                "never heard",
                Some(""),
                4_000,
                Some(4_000),
            ),
        ]
        .into_iter()
        .enumerate()
        {
            transcript.put(Entry {
                n: n as u32,
                item_id: String::new(),
                speaker,
                text: text.into(),
                heard_text: heard.map(Into::into),
                interrupted: false,
                confidence: None,
                start_ms,
                end_ms,
                complete: true,
            });
        }
        transcript
    }

    #[test]
    fn webvtt_shows_what_was_heard_and_escapes() {
        assert_eq!(
            webvtt(&transcript()),
            "WEBVTT\n\n00:00:01.500 --> 00:00:04.500\n<v Caller>a &lt; b --&gt; c &amp; d\n\n\
             01:02:03.004 --> 01:02:04.000\n<v Agent>いらっしゃいませ\n"
        );
    }

    #[test]
    fn subrip_is_numbered() {
        assert_eq!(
            srt(&transcript()),
            "1\n00:00:01,500 --> 00:00:04,500\nCaller: a < b --> c & d\n\n\
             2\n01:02:03,004 --> 01:02:04,000\nAgent: いらっしゃいませ\n\n"
        );
    }
}
