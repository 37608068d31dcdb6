//! Undo and redo by snapshot: one gesture is one named step.

use std::sync::Arc;

/// Steps remembered; the oldest are forgotten first.
const MAX_STEPS: usize = 500;

/// A line of snapshots with a cursor.
#[derive(Debug)]
pub struct History<T> {
    past: Vec<(String, Arc<T>)>,
    current: Arc<T>,
    future: Vec<(String, Arc<T>)>,
    /// Whether the gesture that made the last step may still add to it.
    open: bool,
}

impl<T: Clone + PartialEq> History<T> {
    /// A history that begins with `current`.
    pub fn new(current: T) -> Self {
        Self { past: Vec::new(), current: Arc::new(current), future: Vec::new(), open: false }
    }

    /// The present value.
    pub fn current(&self) -> &Arc<T> {
        &self.current
    }

    /// Applies `edit` as one step named `label`; steps that change nothing leave no trace. Steps of one name
    /// join until the gesture is [sealed](Self::seal).
    pub fn edit(&mut self, label: &str, edit: impl FnOnce(&mut T)) {
        let mut next = T::clone(&self.current);
        edit(&mut next);
        if next == *self.current {
            return;
        }
        let is_same_gesture = self.open && self.past.last().is_some_and(|(last, _)| last == label);
        let before = std::mem::replace(&mut self.current, Arc::new(next));
        if !is_same_gesture {
            self.past.push((label.to_owned(), before));
            if self.past.len() > MAX_STEPS {
                self.past.remove(0);
            }
        }
        self.open = true;
        self.future.clear();
    }

    /// Whether a gesture is under way that has changed something.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Ends the gesture: the next edit starts a new step. A gesture that ends where it began leaves none.
    pub fn seal(&mut self) {
        let returned = |(_, before): &(String, Arc<T>)| *before == self.current;
        if self.open && self.past.last().is_some_and(returned) {
            self.past.pop();
        }
        self.open = false;
    }

    /// Steps back; returns the label undone.
    pub fn undo(&mut self) -> Option<String> {
        let (label, before) = self.past.pop()?;
        self.future.push((label.clone(), std::mem::replace(&mut self.current, before)));
        self.open = false;
        Some(label)
    }

    /// Steps forward again; returns the label redone.
    pub fn redo(&mut self) -> Option<String> {
        let (label, after) = self.future.pop()?;
        self.past.push((label.clone(), std::mem::replace(&mut self.current, after)));
        self.open = false;
        Some(label)
    }

    /// Every step in order, those taken back at the end, and how many are done.
    pub fn steps(&self) -> (Vec<&str>, usize) {
        let past = self.past.iter().map(|(label, _)| label.as_str());
        let future = self.future.iter().rev().map(|(label, _)| label.as_str());
        (past.chain(future).collect(), self.past.len())
    }

    /// Steps back or forward until `done` steps are done.
    pub fn go_to(&mut self, done: usize) {
        while self.past.len() > done && self.undo().is_some() {}
        while self.past.len() < done && self.redo().is_some() {}
    }

    /// The step that undo would take back.
    pub fn undo_label(&self) -> Option<&str> {
        self.past.last().map(|(label, _)| label.as_str())
    }

    /// The step that redo would repeat.
    pub fn redo_label(&self) -> Option<&str> {
        self.future.last().map(|(label, _)| label.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gesture_is_one_step_and_steps_go_both_ways() {
        let mut history = History::new(0);
        history.edit("Paint", |n| *n = 1);
        history.edit("Paint", |n| *n = 2);
        history.seal();
        history.edit("Paint", |n| *n = 3);
        assert_eq!(history.undo().as_deref(), Some("Paint"));
        assert_eq!(**history.current(), 2);
        history.undo();
        assert_eq!(**history.current(), 0, "both edits of the first gesture are one step");
        assert_eq!(history.undo(), None);
        history.redo();
        history.redo();
        assert_eq!(**history.current(), 3);
        history.go_to(0);
        assert_eq!((**history.current(), history.steps()), (0, (vec!["Paint", "Paint"], 0)));
        history.go_to(9);
        assert_eq!((**history.current(), history.steps().1), (3, 2));
        assert_eq!(history.redo(), None);
    }

    #[test]
    fn nothing_changed_leaves_no_step() {
        let mut history = History::new(0);
        history.edit("Same", |n| *n = 0);
        assert_eq!(history.undo_label(), None);
        history.edit("There", |n| *n = 1);
        history.edit("There", |n| *n = 0);
        history.seal();
        assert_eq!(history.undo_label(), None, "a gesture that returns leaves none either");
    }

    #[test]
    fn a_new_edit_forgets_what_was_undone() {
        let mut history = History::new(0);
        history.edit("A", |n| *n = 1);
        history.undo();
        history.edit("B", |n| *n = 2);
        assert_eq!(history.redo_label(), None);
    }
}
