//! How one call is led: drawn from the seed, given to the relay as configuration and to the judge as what to expect.

use crate::dice::Dice;
use voxrelay::call::policy::{
    BargeIn, Dtmf, FirstSpeaker, OnModelUnavailable, Policy, Reconnect, Silence,
};
use voxrelay::proto::realtime::settings::{Settings, TurnDetection};
use voxrelay::proto::realtime::tool::{Builtin, Tool, ToolKind};

/// What the model is told at each stage of silence.
pub const STAGES: [&str; 3] = ["NUDGE ONE.", "NUDGE TWO.", "SILENT GOODBYE."];
/// The tool that a server of the user's carries out.
pub const HTTP_TOOL: &str = "look_up";

/// Times are microseconds; 0 is off.
#[derive(Clone, Debug)]
pub struct Terms {
    pub barge_in: bool,
    pub guard_ms: u32,
    pub confirm_ms: u32,
    /// The server breaks its response off when the caller speaks.
    pub interrupts: bool,
    pub create_response: bool,
    pub first: FirstSpeaker,
    /// When each stage of silence comes.
    pub stages: [u64; 3],
    /// The longest duration, and how long before its end the model is told.
    pub duration: u64,
    pub warning: u64,
    /// Keys are told to the model, once none has come for so long.
    pub keys_as_text: bool,
    pub keys_pause: u64,
    /// What an HTTP tool may take, tries included.
    pub tool_allowed: u64,
    tool_ms: u32,
    retries: u32,
    /// A lost session is made good.
    pub reconnects: bool,
    outage_ms: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self::draw(&mut Dice::new(0))
    }
}

impl Terms {
    pub fn draw(dice: &mut Dice) -> Self {
        let barge_in = dice.percent(85);
        let interrupts = dice.percent(75);
        let confirm_ms = if dice.percent(12) { 400 } else { 0 };
        let guard_ms = if dice.percent(10) { 1_500 } else { 0 };
        // Half of the calls are led in no particular way, and talk longer.
        let led = dice.percent(50);
        let first = match dice.between(0, 5) {
            0 | 1 if led => FirstSpeaker::Agent,
            2 if led => FirstSpeaker::AfterMs(dice.between(50, 2_000) as u32),
            _ => FirstSpeaker::Caller,
        };
        let mut stages = [0; 3];
        if led && dice.percent(50) {
            let mut at = 0;
            for (n, stage) in stages.iter_mut().enumerate() {
                at += dice.millis(100, 500);
                // Whole milliseconds, and not every stage is on; the second needs the first.
                at -= at % 1_000;
                if dice.percent(80) {
                    *stage = at;
                } else if n == 0 {
                    break;
                }
            }
        }
        let (mut duration, mut warning) = (0, 0);
        if led && dice.percent(25) {
            duration = dice.between(2, 5) * 1_000_000;
            warning = dice.pick(&[0, 1_000_000]);
        }
        let tool_ms = dice.between(100, 1_500) as u32;
        let retries = dice.pick(&[0, 0, 1]);
        Self {
            barge_in,
            guard_ms,
            confirm_ms,
            interrupts,
            create_response: dice.percent(85),
            first,
            stages,
            duration,
            warning,
            keys_as_text: dice.percent(75),
            keys_pause: dice.between(100, 900) * 1_000,
            tool_allowed: u64::from(tool_ms) * 1_000 * if retries == 0 { 1 } else { 2 },
            tool_ms,
            retries,
            reconnects: dice.percent(50),
            outage_ms: dice.pick(&[3_000, 10_000]),
        }
    }

    pub fn settings(&self) -> Settings {
        let url = format!("name = {HTTP_TOOL:?}\nurl = \"http://127.0.0.1:9/\"");
        let mut http: Tool = toml::from_str(&url).expect("a tool");
        let ToolKind::Http(server) = &mut http.kind else {
            unreachable!("it has an address");
        };
        server.timeout_ms = self.tool_ms;
        server.retries = self.retries;
        let mut tools = vec![http];
        tools.extend(Builtin::ALL.map(Tool::builtin));
        Settings {
            instructions: "Be brief.".to_owned(),
            turn_detection: TurnDetection {
                create_response: self.create_response,
                interrupt_response: self.interrupts,
                ..TurnDetection::default()
            },
            tools,
            ..Settings::default()
        }
    }

    pub fn policy(&self) -> Policy {
        let [nudge, second, hang_up] = self.stages.map(|us| (us / 1_000) as u32);
        let [first_text, second_text, goodbye] = STAGES.map(str::to_owned);
        Policy {
            first_speaker: self.first,
            greeting: "Say hello.".to_owned(),
            barge_in: BargeIn {
                enabled: self.barge_in,
                guard_ms: self.guard_ms,
                confirm_ms: self.confirm_ms,
            },
            silence: Silence {
                nudge_after_ms: nudge,
                nudge_text: first_text,
                second_nudge_after_ms: second,
                second_nudge_text: second_text,
                hang_up_after_ms: hang_up,
                goodbye_text: goodbye,
            },
            max_duration_secs: (self.duration / 1_000_000) as u32,
            duration_warning_secs: (self.warning / 1_000_000) as u32,
            dtmf: match self.keys_as_text {
                true => Dtmf::Text,
                false => Dtmf::Ignore,
            },
            dtmf_pause_ms: (self.keys_pause / 1_000) as u32,
            on_model_unavailable: OnModelUnavailable::HangUp,
            reconnect: Reconnect {
                tries: if self.reconnects { 5 } else { 0 },
                base_ms: 100,
                cap_ms: 800,
                outage_ms: self.outage_ms,
                hold_ms: 1_000,
            },
            ..Policy::default()
        }
    }
}
