//! Undoing a step of a failing ADD: a guard that runs unless it is committed.

/// Runs its closure when dropped, unless [`Undo::commit`] came first.
#[must_use = "an undo that is dropped at once undoes at once"]
pub struct Undo<F: FnOnce()> {
    undo: Option<F>,
}

impl<F: FnOnce()> Undo<F> {
    /// Arms the guard, right after the step that `undo` takes back.
    pub fn new(undo: F) -> Self {
        Undo { undo: Some(undo) }
    }

    /// The whole ADD has succeeded: the step stays.
    pub fn commit(mut self) {
        self.undo = None;
    }
}

impl<F: FnOnce()> Drop for Undo<F> {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            undo();
        }
    }
}

impl<F: FnOnce()> std::fmt::Debug for Undo<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undo").field("armed", &self.undo.is_some()).finish()
    }
}
