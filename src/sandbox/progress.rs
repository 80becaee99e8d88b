//! Says on stderr what takes a while: a spinner on a terminal, else one plain line per step.

use std::io::IsTerminal;
use std::time::Duration;

/// A step under way. On a terminal its line goes away when it is dropped.
pub struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    /// Announces a step.
    pub fn start(what: impl Into<String>) -> Progress {
        let what = what.into();
        if !std::io::stderr().is_terminal() {
            eprintln!("pglockstep: {what}");
            return Progress(None);
        }
        let bar = indicatif::ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(Some(bar))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
