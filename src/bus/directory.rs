//! What the desk must know to admit a stream: an immutable snapshot that control publishes and swaps.

use crate::base::id::{CallId, CallSid};
use crate::call::policy::Policy;
use crate::proto::realtime::settings::Settings;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::Arc;

/// A call that a webhook has announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The carrier's id for it, which `start` must name.
    pub call_sid: Option<CallSid>,
    /// Milliseconds since 1970; forgotten after.
    pub expires_unix_ms: u64,
}

/// One snapshot.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// The default agent's settings.
    pub settings: Arc<Settings>,
    /// How the default agent leads its calls.
    pub policy: Arc<Policy>,
    /// Calls announced by webhooks, by our id.
    pub expected: HashMap<CallId, Expected>,
    /// Signs and checks stream tickets; 32 bytes, made at start.
    pub ticket_key: [u8; 32],
    /// No new calls: the daemon is about to stop.
    pub draining: bool,
}

/// The shared handle: readers `load`, control swaps with `rcu`.
pub type SharedDirectory = Arc<ArcSwap<Directory>>;
