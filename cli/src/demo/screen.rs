//! Lines on a terminal: what was done, what it said, how long it took.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::glyphs::Glyphs;

/// Where the demo speaks. Colours only on a terminal.
#[derive(Debug)]
pub struct Screen {
    colours: bool,
    unicode: bool,
    failures: usize,
}

const GREEN: &str = "32";
const RED: &str = "31";
const BOLD: &str = "1";
const FAINT: &str = "2";

impl Screen {
    /// stdout, as it is.
    pub fn new() -> Screen {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok());
        // An empty environment says nothing; almost every terminal of today can.
        let unicode =
            locale.is_none_or(|l| l.is_empty() || l.to_lowercase().replace('-', "").ends_with("utf8"));
        Screen { colours, unicode, failures: 0 }
    }

    /// How many verdicts were bad.
    pub fn failures(&self) -> usize {
        self.failures
    }

    /// What drawings are made of.
    pub fn glyphs(&self) -> &'static Glyphs {
        if self.unicode { &Glyphs::UNICODE } else { &Glyphs::ASCII }
    }

    /// A heading.
    pub fn title(&self, text: &str) {
        self.print(&format!("\n{}", self.paint(BOLD, text)));
    }

    /// Something that was done.
    pub fn step(&mut self, what: &str, sentence: &str, took: Duration) {
        self.verdict(true, what, sentence, took);
    }

    /// Something that was tried.
    pub fn verdict(&mut self, good: bool, what: &str, sentence: &str, took: Duration) {
        self.failures += usize::from(!good);
        let sign = match (good, self.unicode) {
            (true, true) => "✓",
            (false, true) => "✗",
            (true, false) => "ok",
            (false, false) => "FAILED",
        };
        let sign = self.paint(if good { GREEN } else { RED }, sign);
        let took = self.paint(FAINT, &format!("{:>9}", milliseconds(took)));
        self.print(&format!("{sign} {took}  {what:<26} {sentence}"));
    }

    /// A part of the step above.
    pub fn detail(&self, what: &str, sentence: &str, took: Duration) {
        let took = self.paint(FAINT, &format!("{:>9}", milliseconds(took)));
        self.print(&format!("  {took}    {what:<24} {sentence}"));
    }

    /// A block of lines as they are.
    pub fn block(&self, text: &str) {
        self.print(text);
    }

    /// A remark.
    pub fn note(&self, text: &str) {
        self.print(text);
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn print(&self, text: &str) {
        let text = if self.unicode { text.into() } else { text.replace('→', ">") };
        let mut stdout = std::io::stdout().lock();
        if writeln!(stdout, "{text}").is_err() {
            // Whoever looked has left (`bowline demo | head`): so do we, with the status of a program that SIGPIPE ends.
            std::process::exit(141);
        }
    }
}

/// `3.1 ms`, `2.0 s`.
pub fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 1000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1e3) }
}
