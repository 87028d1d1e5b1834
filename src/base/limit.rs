//! Every bound in one place: its value, its reason, and how bounds relate to each other.

use std::time::Duration;

/// HTTP head, request or response, in bytes. Longer is answered 431.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines in one head; more is answered 431.
pub const HEADERS_MAX: usize = 64;
/// One message from the carrier, inclusive. A 20 ms frame is about 390 bytes.
pub const CARRIER_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// One message from the model. Retrieved items carry whole audio (seen: 3.4 MB).
pub const REALTIME_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What all legs of a process together may hold in grown buffers.
pub const GROWN_BYTES_BUDGET: usize = 256 * 1024 * 1024;
/// A WebSocket control frame's payload (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;
/// Plaintext in one send; what waits longer than that stays cuttable at a frame boundary.
pub const SEND_BYTES_MAX: usize = 16 * 1024;
/// One TLS record with its overhead (RFC 8446 section 5.2: 2^14 + 256, and a 5 byte header).
pub const TLS_RECORD_BYTES_MAX: usize = 16 * 1024 + 256 + 5;
/// What may wait to be sent on one leg; past it the newest audio is dropped and counted.
pub const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;

/// From accept to the end of the request head.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// From accept to the end of the TLS handshake.
pub const TLS_ACCEPT_DEADLINE: Duration = Duration::from_secs(10);
/// From the 101 to the carrier's `start`.
pub const START_DEADLINE: Duration = Duration::from_secs(10);
/// From the dial intent to `session.updated`, over all attempts.
pub const UPSTREAM_DEADLINE: Duration = Duration::from_secs(10);
/// One TCP connect to the model.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Between our pings on a leg, and how long after one a leg may stay mute.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// After a ping: neither pong nor message in this time means the peer is gone.
pub const PONG_DEADLINE: Duration = Duration::from_secs(20);
/// One send that the peer does not take.
pub const WRITE_STALL_DEADLINE: Duration = Duration::from_secs(10);
/// From our close frame to the peer's.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Caller audio held until the model's session is confirmed; the oldest goes first.
pub const EARLY_AUDIO_MS_MAX: u64 = 5_000;
/// The longest gap in stream time that is filled with silence.
pub const GAP_FILL_MS_MAX: u64 = 10_000;
/// A gap smaller than one frame is jitter of the stamps, not loss.
pub const GAP_FILL_MS_MIN: u64 = 20;
/// With speech open and nothing arriving for this long, `SILENCE_PAD_MS` of silence is sent.
pub const SILENCE_PAD_AFTER: Duration = Duration::from_millis(750);
/// See `SILENCE_PAD_AFTER`; deducted from later filling.
pub const SILENCE_PAD_MS: u64 = 1_000;
/// From `response.create` to `response.created` or an error; then the slot is free again.
pub const RESPONSE_DEADLINE: Duration = Duration::from_secs(10);
/// A response that began and of which nothing was heard for so long is not waited for: its `response.done` was lost, and
/// every later answer would wait behind it.
pub const RESPONSE_SILENCE: Duration = Duration::from_secs(30);
/// Audio between two marks.
pub const MARK_INTERVAL_MS: u64 = 200;
/// From the first mark sent to the first returned; past it the call's notes say that the stream looks one-way.
pub const FIRST_MARK_DEADLINE: Duration = Duration::from_secs(5);
/// Messages with another stream's id before the leg is closed (feature row B06).
pub const FOREIGN_STREAM_MAX: u32 = 3;
/// Custom parameters of a stream that are handed on.
pub const PARAMETERS_MAX: usize = 64;
/// One custom parameter, name and value together, characters: Twilio's own bound for `<Parameter>`.
pub const PARAMETER_CHARS_MAX: usize = 500;
/// Messages that do not parse before the leg is closed.
pub const MALFORMED_MAX: u32 = 50;
/// The body of one journal entry: an item of the model that is kept verbatim is at most one message.
pub const JOURNAL_BODY_BYTES_MAX: usize = REALTIME_MESSAGE_BYTES_MAX;
/// A journal segment is followed by the next one once it is this long; one batch may lie beyond it.
pub const JOURNAL_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Entries that wait in memory for the disk; past it an append is refused and the caller keeps what it has.
pub const JOURNAL_PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Entries of one group commit: with this many waiting the disk is asked at once.
pub const JOURNAL_BATCH_ENTRIES: u32 = 256;
/// The same in bytes, so that a few large entries do not wait for many small ones.
pub const JOURNAL_BATCH_BYTES: u64 = 1024 * 1024;
/// The longest that an entry waits for its group commit when nobody waits for it.
pub const JOURNAL_COMMIT_INTERVAL: Duration = Duration::from_millis(200);
/// After a commit that failed: the first and the longest pause before the next.
pub const JOURNAL_RETRY_MIN: Duration = Duration::from_millis(200);
/// See `JOURNAL_RETRY_MIN`.
pub const JOURNAL_RETRY_MAX: Duration = Duration::from_secs(5);
/// How long a stream ticket is good for.
pub const TICKET_LIFE: Duration = Duration::from_secs(120);

const _: () = {
    assert!(CARRIER_MESSAGE_BYTES_MAX > HEAD_BYTES_MAX);
    assert!(TLS_RECORD_BYTES_MAX > SEND_BYTES_MAX);
    assert!(OUTBOX_BYTES_MAX >= 4 * CARRIER_MESSAGE_BYTES_MAX);
    // A fill must fit the outbox as base64, with room for what follows.
    assert!((GAP_FILL_MS_MAX as usize) * 8 * 4 / 3 < OUTBOX_BYTES_MAX / 4);
    assert!(GAP_FILL_MS_MIN < GAP_FILL_MS_MAX);
    // So must the held start of a call.
    assert!((EARLY_AUDIO_MS_MAX as usize) * 8 * 4 / 3 < OUTBOX_BYTES_MAX / 4);
    // Whole messages of the model on several legs at once.
    assert!(GROWN_BYTES_BUDGET >= 4 * REALTIME_MESSAGE_BYTES_MAX);
    // RFC 6455 section 5.5: the longest that the header's seven bits can say.
    assert!(CONTROL_PAYLOAD_MAX == 125);
    // A connect that fails leaves time for another attempt and for what follows it.
    assert!(2 * CONNECT_DEADLINE.as_millis() < UPSTREAM_DEADLINE.as_millis());
    // The pad covers at least the silence that it answers.
    assert!(SILENCE_PAD_AFTER.as_millis() <= SILENCE_PAD_MS as u128);
    // A peer that takes nothing is noticed by the write before the ping calls it dead.
    assert!(WRITE_STALL_DEADLINE.as_millis() < PONG_DEADLINE.as_millis());
    assert!(CLOSE_DEADLINE.as_millis() < WRITE_STALL_DEADLINE.as_millis());
    // An entry of the greatest size is taken, also when others wait already.
    assert!(JOURNAL_PENDING_BYTES_MAX >= 2 * JOURNAL_BODY_BYTES_MAX);
    assert!(JOURNAL_SEGMENT_BYTES >= 2 * JOURNAL_BODY_BYTES_MAX as u64);
    // An entry's length is 32 bits.
    assert!(JOURNAL_BODY_BYTES_MAX < u32::MAX as usize);
    assert!(JOURNAL_RETRY_MIN.as_millis() <= JOURNAL_RETRY_MAX.as_millis());
};
