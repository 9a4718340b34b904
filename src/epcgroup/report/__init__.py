"""From a run record to numbers, text and a page. Pure: computes, or renders, never both."""
