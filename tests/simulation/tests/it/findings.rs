//! Defects that these worlds have found, each put back into the layers around the pure machines.
