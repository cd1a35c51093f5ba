//! The characters that the drawing's lines are made of.

/// What lines are made of.
#[derive(Debug)]
pub struct Glyphs {
    pub(super) horizontal: char,
    pub(super) vertical: char,
    pub(super) corners: [char; 4],
    pub(super) tee: char,
    pub(super) last: char,
    pub(super) down: char,
    pub(super) up: char,
}

impl Glyphs {
    /// Box drawing characters.
    pub const UNICODE: Glyphs = Glyphs {
        horizontal: '─',
        vertical: '│',
        corners: ['┌', '┐', '└', '┘'],
        tee: '├',
        last: '└',
        down: '┬',
        up: '┴',
    };
    /// Plain ASCII.
    pub const ASCII: Glyphs = Glyphs {
        horizontal: '-',
        vertical: '|',
        corners: ['+', '+', '+', '+'],
        tee: '+',
        last: '+',
        down: '+',
        up: '+',
    };
}
