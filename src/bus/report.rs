//! Facts from the workers to control (later also to the store). Full: the report is dropped and counted by the sender.

use crate::call::Report;

/// The workers' end.
pub type ReportSender = tokio::sync::mpsc::Sender<Report>;
/// Control's end.
pub type ReportInbox = tokio::sync::mpsc::Receiver<Report>;

/// A queue of `capacity` reports.
pub fn report_queue(capacity: usize) -> (ReportSender, ReportInbox) {
    tokio::sync::mpsc::channel(capacity)
}

/// Connections that the desk hands to control: plain HTTP on the shared port.
pub type HttpSender = tokio::sync::mpsc::Sender<Box<crate::transport::Established>>;
/// Control's end.
pub type HttpInbox = tokio::sync::mpsc::Receiver<Box<crate::transport::Established>>;

/// A queue of `capacity` connections. Full: the desk answers 503 and closes.
pub fn http_queue(capacity: usize) -> (HttpSender, HttpInbox) {
    tokio::sync::mpsc::channel(capacity)
}
