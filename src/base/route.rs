//! The one route table: which paths are media streams, and what their ids are.

/// What a stream path does with its call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamMode {
    /// With call record and store.
    Full,
    /// A debug route of one of the older backends: relays, keeps nothing.
    Simple,
}

/// One alias of the media-stream endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamAlias {
    /// The path as routers write it, with `{id}` for the id segment.
    pub pattern: &'static str,
    /// The fixed part; with an id, it ends in `/`.
    pub prefix: &'static str,
    /// Whether an id segment follows.
    pub has_id: bool,
    /// What it does with its call.
    pub mode: StreamMode,
}

/// Every media-stream path that the replaced backends served.
pub const STREAM_ALIASES: &[StreamAlias] = &[
    StreamAlias {
        pattern: "/api/twilio/media-stream/{callId}",
        prefix: "/api/twilio/media-stream/",
        has_id: true,
        mode: StreamMode::Full,
    },
    StreamAlias {
        pattern: "/media-stream/{callSid}",
        prefix: "/media-stream/",
        has_id: true,
        mode: StreamMode::Full,
    },
    StreamAlias {
        pattern: "/api/twilio/media-stream-simple",
        prefix: "/api/twilio/media-stream-simple",
        has_id: false,
        mode: StreamMode::Simple,
    },
    StreamAlias {
        pattern: "/media-stream",
        prefix: "/media-stream",
        has_id: false,
        mode: StreamMode::Full,
    },
    StreamAlias {
        pattern: "/api/voice/stream",
        prefix: "/api/voice/stream",
        has_id: false,
        mode: StreamMode::Full,
    },
    StreamAlias {
        pattern: "/streams",
        prefix: "/streams",
        has_id: false,
        mode: StreamMode::Full,
    },
];
