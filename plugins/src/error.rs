//! From the kernel's errors to the protocol's.

/// A kernel error as the spec's error object, its whole chain in the message.
#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
pub fn kernel_error(error: kernel::Error) -> cni::Error {
    cni::Error::from_chain(&error)
}

/// The outcome of several steps that were all taken: the first error carries the others in its details.
///
/// For DEL and GC, which gather errors and finish the list.
pub fn gather(outcomes: impl IntoIterator<Item = cni::Result<()>>) -> cni::Result<()> {
    let mut errors = outcomes.into_iter().filter_map(Result::err);
    let Some(mut first) = errors.next() else { return Ok(()) };
    for other in errors {
        if !first.details.is_empty() {
            first.details.push_str("; ");
        }
        first.details.push_str(&other.to_string());
    }
    Err(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_errors_become_details_of_the_first() {
        assert_eq!(gather([Ok(()), Ok(())]), Ok(()));
        let errors = ["one", "two", "three"].map(|msg| Err(cni::Error::internal(msg)));
        let gathered = gather(errors).expect_err("three errors");
        assert_eq!((gathered.msg.as_str(), gathered.details.as_str()), ("one", "two; three"));
    }
}
