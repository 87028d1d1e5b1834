//! What an agent's settings become: the `session.update` event.

/// An agent's session settings. All audio is PCMU both ways.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Settings {
    /// `instructions`; empty is left out, so the server's default stands.
    pub instructions: String,
    /// `audio.output.voice`; empty is left out.
    pub voice: String,
    /// `audio.output.speed`.
    pub speed: Option<f64>,
    /// `audio.input.turn_detection`, sent whole.
    pub turn_detection: TurnDetection,
    /// `audio.input.transcription.model`; empty switches transcription off.
    pub transcription_model: String,
    /// `audio.input.transcription.language`; empty is left out.
    pub transcription_language: String,
}

/// Who decides that the caller's turn is over. Both kinds with all fields come with the conversation work.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnDetection {
    /// 0.0 to 1.0.
    pub threshold: f64,
    /// Audio kept before speech, ms.
    pub prefix_padding_ms: u32,
    /// Silence that ends a turn, ms. Always sent: the server's default differs by model.
    pub silence_duration_ms: u32,
}

impl Default for TurnDetection {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            prefix_padding_ms: 300,
            silence_duration_ms: 500,
        }
    }
}
