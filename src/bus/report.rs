//! Facts from the workers to control (later also to the store). Full: the report is dropped and counted by the sender.

use crate::call::Report;
use crate::transport::Established;

/// The workers' end.
pub type ReportSender = tokio::sync::mpsc::Sender<Report>;
/// Control's end.
pub type ReportInbox = tokio::sync::mpsc::Receiver<Report>;

/// A queue of `capacity` reports.
pub fn report_queue(capacity: usize) -> (ReportSender, ReportInbox) {
    tokio::sync::mpsc::channel(capacity)
}

/// A plain HTTP connection on the shared port, on its way from the desk to control.
#[derive(Debug)]
pub struct HttpConnection {
    /// The connection, with the bytes of its first request.
    pub established: Established,
    /// Held as long as the connection lives.
    pub place: HttpPlace,
    /// Places are scarce when this is not set: one answer, then close.
    pub keep_alive: bool,
}

/// A connection's place among those that anybody may open. Given back when it is dropped.
pub struct HttpPlace(Option<Box<dyn Send>>);

impl HttpPlace {
    /// `guard` gives the place back when it is dropped.
    pub fn new(guard: impl Send + 'static) -> Self {
        Self(Some(Box::new(guard)))
    }

    /// A connection that nobody counts.
    pub fn uncounted() -> Self {
        Self(None)
    }
}

impl std::fmt::Debug for HttpPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpPlace(counted: {})", self.0.is_some())
    }
}

/// The desk's end.
pub type HttpSender = tokio::sync::mpsc::Sender<Box<HttpConnection>>;
/// Control's end.
pub type HttpInbox = tokio::sync::mpsc::Receiver<Box<HttpConnection>>;

/// A queue of `capacity` connections. Full: the desk answers 503 and closes.
pub fn http_queue(capacity: usize) -> (HttpSender, HttpInbox) {
    tokio::sync::mpsc::channel(capacity)
}
