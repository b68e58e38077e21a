"""One file a verb: parse, call one library function, print. No logic, no heavy import at the top."""
