//! The scripted carrier: its script is drawn from the seed, its messages are written here.

use crate::check::{CallerFrame, Judge, Note, SID, Seen};
use crate::dice::Dice;
use crate::playback::Playback;
use crate::ws;

/// A message on its way to the relay.
pub struct Outgoing {
    pub bytes: Vec<u8>,
    pub note: Note,
    pub line: String,
}

/// What becomes of the marks that the relay sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marks {
    Faithful,
    Late,
    Early,
    Shuffled,
    Never,
    Doubled,
}

/// How the carrier's side comes to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goes {
    StopAndClose,
    Close,
    Eof,
    Reset,
    /// Nothing is said and nothing is taken any more.
    Vanishes,
}

/// What the connection is to do, beside the messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Eof,
    Reset,
    Vanish,
}

#[derive(Debug)]
pub struct Script {
    pub marks: Marks,
    pub goes: Goes,
    pub ends_at: u64,
    pub starts: bool,
    pub answers_close: bool,
    pub even_stamps: bool,
    /// Messages that break rules, of a thousand frames.
    odd: u64,
    frame_ms: u64,
    /// Frames lost of a thousand, and pauses.
    losses: u64,
    pauses: u64,
    /// Keys pressed, of a thousand frames.
    keys: u64,
}

impl Script {
    pub fn draw(dice: &mut Dice, calm: bool) -> Self {
        let marks = match calm {
            true => Marks::Faithful,
            false => dice.pick(&[
                Marks::Faithful,
                Marks::Late,
                Marks::Early,
                Marks::Shuffled,
                Marks::Never,
                Marks::Doubled,
            ]),
        };
        let long = dice.percent(4);
        Self {
            marks,
            goes: dice.pick(&[
                Goes::StopAndClose,
                Goes::StopAndClose,
                Goes::StopAndClose,
                Goes::Close,
                Goes::Eof,
                Goes::Reset,
                Goes::Vanishes,
            ]),
            ends_at: match long {
                true => dice.millis(15_000, 50_000),
                false => dice.millis(300, 7_500),
            },
            starts: !dice.percent(2),
            answers_close: !dice.percent(10),
            even_stamps: calm || dice.percent(60),
            odd: if calm { 0 } else { dice.pick(&[0, 0, 5, 40]) },
            frame_ms: match long {
                true => 100,
                false => dice.pick(&[20, 20, 20, 40, 100]),
            },
            losses: dice.pick(&[0, 0, 20, 100]),
            pauses: dice.pick(&[0, 0, 4, 15]),
            keys: dice.pick(&[0, 2, 2, 40]),
        }
    }
}

pub struct Carrier {
    pub script: Script,
    pub playback: Playback,
    dice: Dice,
    begun: u8,
    next_at: u64,
    stamp_ms: u64,
    /// What frames lie behind the audio's own place.
    sequence: u64,
    chunk: u64,
    /// Marks to be returned: when, which.
    returning: Vec<(u64, String)>,
    gone: bool,
    closed: bool,
    foreign: u32,
    pub acts: Vec<Act>,
}

impl Carrier {
    pub fn new(script: Script, mut dice: Dice) -> Self {
        Self {
            next_at: dice.millis(0, 300),
            script,
            playback: Playback::default(),
            dice,
            begun: 0,
            stamp_ms: 61,
            sequence: 1,
            chunk: 1,
            returning: Vec::new(),
            gone: false,
            closed: false,
            foreign: 0,
            acts: Vec::new(),
        }
    }

    pub fn next(&self) -> Option<u64> {
        if self.gone || self.closed {
            return None;
        }
        let marks = self.returning.iter().map(|(at, _)| *at).min();
        [
            Some(self.next_at.min(self.script.ends_at)),
            marks,
            self.playback.next(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn text(&mut self, text: String, note: Note) -> Outgoing {
        let key = (self.dice.next() as u32).to_ne_bytes();
        let bytes = match self.dice.percent(2) && text.len() > 20 {
            // In fragments, with a ping between them.
            true => {
                let (a, b) = text.as_bytes().split_at(text.len() / 3);
                let mut bytes = ws::write_part(ws::TEXT, false, a, Some(key));
                bytes.extend(ws::write(ws::PONG, b"", Some(key)));
                bytes.extend(ws::write_part(0, true, b, Some(key)));
                bytes
            }
            false => ws::write(ws::TEXT, text.as_bytes(), Some(key)),
        };
        Outgoing {
            bytes,
            note,
            line: text,
        }
    }

    fn control(&mut self, opcode: u8, payload: &[u8], note: Note) -> Outgoing {
        let key = (self.dice.next() as u32).to_ne_bytes();
        Outgoing {
            bytes: ws::write(opcode, payload, Some(key)),
            note,
            line: format!("frame with opcode {opcode}"),
        }
    }

    /// What is due.
    pub fn act(&mut self, now: u64, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        self.catch_up(now);
        if self.gone || self.closed {
            return;
        }
        while let Some(i) = self.returning.iter().position(|(at, _)| *at <= now) {
            let (_, name) = self.returning.remove(i);
            out.push(self.mark(&name));
        }
        if now >= self.script.ends_at {
            self.end(judge, out);
            return;
        }
        while self.next_at <= now && !self.closed {
            self.speak(judge, out);
        }
    }

    fn mark(&mut self, name: &str) -> Outgoing {
        self.sequence += 1;
        let text = format!(
            r#"{{"event":"mark","sequenceNumber":"{}","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#,
            self.sequence
        );
        self.text(text, Note::Other)
    }

    fn passed(&mut self, name: String, at: u64) {
        let at = match self.script.marks {
            Marks::Faithful => at,
            Marks::Early | Marks::Never => return, // returned on arrival, or not at all
            Marks::Late => at + self.dice.millis(0, 2_000),
            Marks::Shuffled => at + self.dice.millis(0, 400),
            Marks::Doubled => {
                self.returning.push((at, name.clone()));
                at
            }
        };
        self.returning.push((at, name));
    }

    fn speak(&mut self, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        if self.begun < 2 {
            self.begin(judge, out);
            return;
        }
        let odd = self.dice.next() % 1_000 < self.script.odd;
        if odd {
            out.push(self.odd());
        }
        let ms = self.script.frame_ms;
        if self.dice.next() % 1_000 < self.script.losses {
            self.stamp_ms += ms;
            self.chunk += 1;
            self.sequence += 1;
        } else {
            out.push(self.media(ms, judge));
        }
        self.next_at += ms * 1_000;
        if self.dice.next() % 1_000 < self.script.pauses {
            // The line goes mute; stream time goes on.
            let ms = self.dice.between(2, 120) * 20;
            self.stamp_ms += ms;
            self.next_at += ms * 1_000;
        }
        if self.dice.next().is_multiple_of(300) {
            let payload = self.dice.next().to_ne_bytes();
            out.push(self.control(ws::PING, &payload, Note::Ping(payload.to_vec())));
        }
        if self.dice.next() % 1_000 < self.script.keys {
            self.sequence += 1;
            let digit = self.dice.pick(&['1', '5', '0', '*', 'D', '#']);
            let text = format!(
                r#"{{"event":"dtmf","streamSid":"{SID}","sequenceNumber":"{}","dtmf":{{"track":"inbound_track","digit":"{digit}"}}}}"#,
                self.sequence
            );
            out.push(self.text(text, Note::Key(digit)));
        }
    }

    fn begin(&mut self, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        self.begun += 1;
        if self.begun == 1 {
            let text = r#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#;
            out.push(self.text(text.to_owned(), Note::Other));
            self.next_at += self.dice.millis(0, 30);
            return;
        }
        if !self.script.starts {
            self.next_at = u64::MAX;
            return;
        }
        judge.on_start();
        out.push(self.text(
            format!(
                r#"{{"event":"start","sequenceNumber":"1","start":{{"accountSid":"AC00000000000000000000000000000000","streamSid":"{SID}","callSid":"CA00000000000000000000000000000000","tracks":["inbound"],"mediaFormat":{{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}},"customParameters":{{}}}},"streamSid":"{SID}"}}"#
            ),
            Note::Started,
        ));
        self.next_at += self.dice.millis(1, 40);
    }

    /// The caller's next audio: its number, then bytes that no other frame has; never 0xFF, which is silence.
    fn media(&mut self, ms: u64, judge: &mut Judge) -> Outgoing {
        let n = judge.frames.len();
        let mut bytes = Vec::with_capacity(ms as usize * 8);
        bytes.extend([n >> 21, n >> 14, n >> 7, n].map(|b| b as u8 & 0x7f));
        let salt = (n as u32).wrapping_mul(0x9e37_79b9) >> 7;
        bytes.extend((4..ms as u32 * 8).map(|i| ((i * 7) ^ salt) as u8 & 0x7f));
        let stamp = match self.script.even_stamps {
            true => self.stamp_ms,
            false => self.stamp_ms + self.dice.between(0, 8),
        };
        let text = format!(
            r#"{{"event":"media","sequenceNumber":"{}","media":{{"track":"inbound","chunk":"{}","timestamp":"{stamp}","payload":"{}"}},"streamSid":"{SID}"}}"#,
            self.sequence + 1,
            self.chunk,
            base64_simd::STANDARD.encode_to_string(&bytes)
        );
        self.sequence += 1;
        self.chunk += 1;
        self.stamp_ms += ms;
        judge.frames.push(CallerFrame {
            stamp_ms: stamp,
            bytes,
        });
        self.text(text, Note::Caller(n))
    }

    /// Something that breaks a rule and must be survived.
    fn odd(&mut self) -> Outgoing {
        let text = match self.dice.between(0, 7) {
            // A mark of another call, twice at most: the third such message ends the call.
            7 if self.foreign < 2 => {
                self.foreign += 1;
                r#"{"event":"mark","streamSid":"MZ1","mark":{"name":"g0.1.200"}}"#.to_owned()
            }
            0 => r#"{"event":"media","media":{"payload":"#.to_owned(),
            1 => format!(
                r#"{{"event":"media","streamSid":"{SID}","media":{{"track":"inbound","chunk":"x","timestamp":"5","payload":"***="}}}}"#
            ),
            2 => format!(r#"{{"event":"surprise","streamSid":"{SID}","more":[1,{{"a":null}}]}}"#),
            3 => format!(
                r#"{{"event":"start","streamSid":"{SID}","start":{{"streamSid":"{SID}"}}}}"#
            ),
            4 => {
                let name = self
                    .dice
                    .pick(&["g0.1.99999", "g7.1.20", "hello", "g0.1.0"]);
                format!(r#"{{"event":"mark","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#)
            }
            5 => return self.control(ws::BINARY, b"\x00\x01\xff", Note::Other),
            _ => format!(
                r#"{{"event":"media","streamSid":"{SID}","media":{{"track":"outbound","chunk":"1","timestamp":"5","payload":"AAAA"}}}}"#
            ),
        };
        self.text(text, Note::Other)
    }

    fn end(&mut self, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        self.gone = true;
        if self.script.goes == Goes::StopAndClose && self.begun == 2 && self.script.starts {
            let text = format!(
                r#"{{"event":"stop","sequenceNumber":"{}","streamSid":"{SID}","stop":{{"accountSid":"AC00000000000000000000000000000000","callSid":"CA00000000000000000000000000000000"}}}}"#,
                self.sequence
            );
            out.push(self.text(text, Note::Gone));
        }
        match self.script.goes {
            Goes::StopAndClose | Goes::Close => {
                self.closed = true;
                out.push(self.control(ws::CLOSE, &1000u16.to_be_bytes(), Note::Gone));
            }
            Goes::Eof => self.acts.push(Act::Eof),
            Goes::Reset => self.acts.push(Act::Reset),
            Goes::Vanishes => {
                judge.vanished = true;
                self.acts.push(Act::Vanish);
            }
        }
    }

    /// Something of the relay's arrived.
    pub fn handle(&mut self, seen: Seen, now: u64, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        self.catch_up(now);
        match seen {
            Seen::Media { item, len } => self.playback.audio(item, len as u64, now),
            Seen::Mark(name) => {
                if self.script.marks == Marks::Early {
                    self.returning.push((now, name));
                } else {
                    self.playback.mark(name, now);
                }
            }
            Seen::Clear => {
                judge.on_cleared(&self.playback);
                for name in self.playback.clear(now) {
                    if self.script.marks != Marks::Never {
                        self.returning.push((now, name));
                    }
                }
            }
            Seen::Ping(payload) if !self.gone => {
                out.push(self.control(ws::PONG, &payload, Note::Other));
            }
            Seen::Close(code) if !self.closed && !self.gone => {
                judge.on_hung_up(self.playback.waiting());
                if !self.script.answers_close {
                    return;
                }
                self.closed = true;
                out.push(self.control(ws::CLOSE, &code.to_be_bytes(), Note::Other));
            }
            _ => {}
        }
    }

    /// Plays up to now.
    pub fn catch_up(&mut self, now: u64) {
        for (at, name) in self.playback.advance(now) {
            self.passed(name, at);
        }
    }
}
