//! `voxrelay simulate echo-client`: runs the cases of a WebSocket conformance suite's fuzzing server over the same
//! dialling and worker code that talks to the model.

use crate::base::id::WorkerId;
use crate::base::limit;
use crate::bus::command::{EchoOutcome, ToWorker, WorkerSender, desk_queue, worker_queue};
use crate::bus::report::report_queue;
use crate::bus::tool::tool_queue;
use crate::config::url::redacted;
use crate::proto::realtime::endpoint::{Endpoint, connect_url};
use crate::proto::ws::Role;
use crate::relay::desk::dial;
use crate::relay::worker;
use crate::transport::clock::SystemClock;
use indicatif::{ProgressBar, ProgressStyle};

/// Asks the server at `url` for its cases, runs each as `agent`, and has it write its reports.
///
/// Errs with a sentence when the server can't be reached or answers something else than a suite.
pub fn run(
    url: &str,
    agent: &str,
    cases: Option<std::ops::RangeInclusive<u64>>,
) -> Result<(), String> {
    let base = connect_url(url, "conformance", None)
        .map_err(|error| format!("{}: {error}", redacted(url)))?;
    let (orders, inbox) = worker_queue(64).map_err(|error| format!("no eventfd: {error}"))?;
    let (desk, _desk_inbox) = desk_queue(1);
    let (reports, _report_inbox) = report_queue(1);
    let parts = worker::Parts {
        id: WorkerId(0),
        inbox,
        desk,
        reports,
        tools: tool_queue(1).0,
        clock: SystemClock::new(),
        grown_bytes_max: limit::GROWN_BYTES_BUDGET,
        tuning: worker::Tuning::default(),
    };
    let thread =
        worker::start(parts).map_err(|error| format!("no ring: {error}; run `voxrelay check`"))?;
    let outcome = tokio_uring::start(async {
        let count = echo(&base, "/getCaseCount", &orders).await?;
        let count: u64 = std::str::from_utf8(&count.last_text)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or(
                "the server did not answer /getCaseCount with a number: is it a fuzzing server?",
            )?;
        let cases = cases.unwrap_or(1..=count);
        let bar = ProgressBar::new(cases.clone().count() as u64);
        bar.set_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len} cases")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        for case in cases {
            echo(
                &base,
                &format!("/runCase?case={case}&agent={agent}"),
                &orders,
            )
            .await?;
            bar.inc(1);
        }
        bar.finish();
        echo(&base, &format!("/updateReports?agent={agent}"), &orders).await?;
        println!("{count} cases offered; the server has written its reports");
        Ok::<(), String>(())
    });
    let _ = orders.send(ToWorker::Stop);
    let _ = thread.join();
    outcome
}

async fn echo(base: &Endpoint, target: &str, orders: &WorkerSender) -> Result<EchoOutcome, String> {
    let endpoint = Endpoint {
        target: target.to_owned(),
        ..base.clone()
    };
    let connection = dial::connect(&endpoint, &[], None)
        .await
        .map_err(|error| format!("{}:{}{target}: {error}", endpoint.host, endpoint.port))?;
    let (done, outcome) = tokio::sync::oneshot::channel();
    orders
        .send(ToWorker::Echo {
            leg: Box::new(connection),
            role: Role::Client,
            done: Some(done),
        })
        .map_err(|_| "the worker is gone")?;
    outcome.await.map_err(|_| "the worker is gone".to_owned())
}
