//! The script of one connection to the model: how it is set up, how it leaves, what it makes hard.

use crate::dice::Dice;

/// What a connection does beside talking.
#[derive(Clone, Debug)]
pub struct Script {
    pub refuses_dial: bool,
    /// And may do better a moment later.
    pub refusal_passes: bool,
    pub never_answers_dial: bool,
    pub dial_takes: u64,
    /// The session is never created, never confirmed, confirmed with another format, refused.
    pub setup: Setup,
    /// When it goes, and how; counted from the connection.
    pub leaves: Option<(u64, Leaves)>,
    pub answers_close: bool,
    /// The session's length.
    pub expires_in_secs: u64,
    /// Odd events, of a hundred turns.
    pub odd: u64,
    pub refuses_truncation: bool,
    pub speed: u64,
    pub turns_up_to_ms: u64,
    /// Responses with calls of tools, of a hundred.
    pub tools: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setup {
    Good,
    Silent,
    Unconfirmed,
    WrongFormat,
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaves {
    Expired,
    Close(u16),
    Eof,
    Reset,
    Vanishes,
}

impl Script {
    /// `again`: after a connection was lost, or before one is left.
    pub fn draw(dice: &mut Dice, calm: bool, again: bool) -> Self {
        let trouble = !calm && dice.percent(if again { 40 } else { 20 });
        let often = [Setup::Good; 16];
        let mut setups = often.to_vec();
        setups.extend([
            Setup::Silent,
            Setup::Unconfirmed,
            Setup::WrongFormat,
            Setup::Refused,
        ]);
        Self {
            refusal_passes: dice.percent(70),
            expires_in_secs: if dice.percent(15) {
                dice.between(181, 190)
            } else {
                3_600
            },
            refuses_dial: trouble && dice.percent(15),
            never_answers_dial: trouble && dice.percent(10),
            dial_takes: dice.millis(1, 400),
            setup: if trouble {
                dice.pick(&setups)
            } else {
                Setup::Good
            },
            leaves: (trouble && dice.percent(60)).then(|| {
                let how = dice.pick(&[
                    Leaves::Expired,
                    Leaves::Close(1001),
                    Leaves::Close(1011),
                    Leaves::Eof,
                    Leaves::Reset,
                    Leaves::Vanishes,
                ]);
                (dice.millis(0, 6_000), how)
            }),
            answers_close: !dice.percent(10),
            odd: dice.pick(&[0, 10, 60]),
            refuses_truncation: dice.percent(10),
            speed: dice.between(1, 12),
            turns_up_to_ms: dice.pick(&[800, 3_000, 6_000, 20_000]),
            tools: dice.pick(&[0, 10, 30, 60]),
        }
    }
}
