//! What a revision does not know, put into a form it does.
