//! From a crawl that is described to an exit status.

use tidegate::{Builder, Error, Report, Snapshot};

use super::args::Common;
use super::output::{Output, Outputs, RecordSink, Render, WriteError};
use super::record::message;
use super::signals::Signals;
use super::stats::Stats;
use super::trace::Trace;
use super::watch::Watch;
use super::{Failure, say};

/// A run that has ended.
pub(super) struct Ended {
    result: Result<Report, Error>,
    totals: Snapshot,
    /// The exit status that a signal asks for.
    signal: Option<u8>,
    write_error: Option<WriteError>,
}

/// Runs the crawl, writing a record for each outcome, and its statistics at the end.
pub(super) fn to_end(
    builder: Builder<()>,
    common: &Common,
    outputs: Outputs,
    render: Render,
) -> Result<Ended, Failure> {
    let Outputs { records, stats, trace } = outputs;
    // A line of progress and the lines of --why would be in each other's way.
    let progress = !common.quiet && !common.why && !records.as_ref().is_some_and(Output::is_terminal);
    let (sink, written) = RecordSink::start(records, render)?;
    // Before the first record can be seen, so that whoever has seen one may send a signal.
    let signals = Signals::catch()?;
    let (trace, builder) = match trace.map(Trace::start).transpose()? {
        Some((trace, lines)) => (Some(trace), builder.observer(lines)),
        None => (None, builder),
    };
    let crawl = builder.outcomes(sink).start().map_err(|error| Failure::usage(message(&error)))?;
    let handle = crawl.handle();
    let caught = signals.watch(handle.clone(), common.quiet)?;
    if let Some(trace) = &trace {
        trace.ends(handle.clone());
    }
    let watch = Watch::start(handle.clone(), stats.is_some(), progress, common.why);
    let result = futures::executor::block_on(crawl);
    let peaks = watch.end();
    let trace_error = trace.and_then(Trace::end);
    let (reason, totals) = match &result {
        Ok(report) => (report.finish_reason.code(), report.totals.clone()),
        Err(_) => ("failed", handle.snapshot()),
    };
    if let Some(output) = stats {
        output.write_json(&Stats::new(common.runtime.name(), common.io_threads.get(), reason, &totals, peaks))?;
    }
    Ok(Ended { result, totals, signal: caught.code(), write_error: written.error().or(trace_error) })
}

impl Ended {
    /// The exit status; `summary` is printed first, unless the reader of the records has gone, and `reason` says why the
    /// run counts as failed although it came to its end.
    pub(super) fn finish(
        self,
        common: &Common,
        summary: Option<String>,
        reason: Option<String>,
    ) -> Result<u8, Failure> {
        let report = match (self.write_error, self.result) {
            // Nobody wants more: that is an ordinary end of a pipeline.
            (Some(WriteError::Closed), _) => return Ok(0),
            (Some(WriteError::Failed(message)), _) => return Err(Failure::run(message)),
            // A drain that did not come to its end is still the end that was asked for.
            (None, Err(error)) => {
                let code = self.signal.unwrap_or(1);
                return Err(Failure { code, message: message(&error) });
            }
            (None, Ok(report)) => report,
        };
        if !common.quiet {
            say(report);
            if let Some(summary) = summary {
                say(summary);
            }
        }
        match (self.signal, reason) {
            (Some(code), _) => Ok(code),
            (None, Some(reason)) => Err(Failure::run(reason)),
            (None, None) if common.fail && self.totals.counters.error > 0 => Ok(3),
            (None, None) => Ok(0),
        }
    }
}
