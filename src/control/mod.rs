//! The control plane: axum on an ordinary tokio runtime. Never in the path of audio.

use crate::bus::command::{DeskSender, WorkerSender};
use crate::bus::directory::SharedDirectory;
use crate::bus::report::{HttpInbox, ReportInbox};
use crate::config::Config;
use std::sync::Arc;

/// What control is given.
#[derive(Debug)]
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// Control publishes it.
    pub directory: SharedDirectory,
    /// Plain HTTP connections from the desk.
    pub http: HttpInbox,
    /// Facts from the workers.
    pub reports: ReportInbox,
    /// Orders to the desk.
    pub desk: DeskSender,
    /// Orders to the workers.
    pub workers: Vec<WorkerSender>,
    /// Gets a copy of every fact, where somebody watches (the demo).
    pub tap: Option<tokio::sync::mpsc::Sender<crate::call::Report>>,
}

/// A running control plane.
#[derive(Debug)]
pub struct Control {
    _private: (),
}

impl Control {
    /// Ends its thread.
    pub fn stop(self) {}
}

/// Starts it.
pub fn start(
    parts: Parts,
    prometheus: metrics_exporter_prometheus::PrometheusHandle,
) -> std::io::Result<Control> {
    let _ = (parts, prometheus);
    Ok(Control { _private: () })
}
