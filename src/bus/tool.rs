//! Tool requests from the workers to `outcall`; the answers come back as `ToWorker::ToolResult`. Full: the worker
//! answers the model at once that too many tools are running.

use crate::base::id::{CallId, SlotKey, WorkerId};
use crate::call::tools::ToolCall;

/// One HTTP tool to run for one call.
#[derive(Clone, Debug)]
pub struct ToolRequest {
    /// Who asks, and gets the answer.
    pub worker: WorkerId,
    /// For which session.
    pub slot: SlotKey,
    /// Named in the request's body.
    pub call_id: CallId,
    /// What to ask.
    pub call: ToolCall,
}

/// The workers' end.
pub type ToolSender = tokio::sync::mpsc::Sender<ToolRequest>;
/// The end of `outcall`.
pub type ToolInbox = tokio::sync::mpsc::Receiver<ToolRequest>;

/// A queue of `capacity` requests.
pub fn tool_queue(capacity: usize) -> (ToolSender, ToolInbox) {
    tokio::sync::mpsc::channel(capacity)
}
