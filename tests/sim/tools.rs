//! Who carries HTTP tools out: answers in time, late, twice, never, with an error, or for a call that nobody made.

use crate::check::Judge;
use crate::dice::Dice;
use voxrelay::call::tools::{Outcome, ToolCall, ToolCallId, ToolResult, error_output};

/// The runner of one call's tools.
pub struct Runner {
    dice: Dice,
    /// Answers on their way, with the time of each.
    due: Vec<(u64, ToolResult)>,
}

impl Runner {
    pub fn new(dice: Dice) -> Self {
        Self {
            dice,
            due: Vec::new(),
        }
    }

    pub fn next(&self) -> Option<u64> {
        self.due.iter().map(|(at, _)| *at).min()
    }

    /// The relay asks for a tool.
    pub fn ask(&mut self, call: &ToolCall, allowed: u64, now: u64, judge: &mut Judge) {
        let id = call.tool_call_id;
        judge.on_tool_asked(id.as_str(), &call.name, &call.arguments);
        let good = |text: String| ToolResult {
            tool_call_id: id,
            output: text,
            outcome: Outcome::Ok,
        };
        let text = format!("{{\"found\":\"{}\"}}", self.dice.next());
        let soon = now + self.dice.between(1_000, allowed - 1_000);
        match self.dice.between(0, 19) {
            0..=11 => self.due.push((soon, good(text))),
            // Later than anybody waits.
            12 | 13 => {
                let late = now + allowed + self.dice.millis(1_900, 4_000);
                self.due.push((late, good(text)));
            }
            14 | 15 => {
                let again = soon + self.dice.pick(&[0, 1_000, 700_000]);
                self.due.push((soon, good(text.clone())));
                self.due.push((again, good(format!("{text} "))));
            }
            16 => {} // never
            17 => {
                let stranger = ToolCallId::new("call_of_nobody").expect("short");
                self.due.push((soon, ToolResult::busy(stranger)));
                self.due.push((soon, good(text)));
            }
            _ => self.due.push((
                soon,
                ToolResult {
                    tool_call_id: id,
                    output: error_output("The server answered with 503.", "Go on."),
                    outcome: Outcome::HttpError,
                },
            )),
        }
    }

    /// An answer that is due.
    pub fn pop(&mut self, now: u64) -> Option<ToolResult> {
        let due = (0..self.due.len()).filter(|&i| self.due[i].0 <= now);
        let i = due.min_by_key(|&i| self.due[i].0)?;
        Some(self.due.remove(i).1)
    }
}
