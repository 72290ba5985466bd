// Package load loads a broker with messages or commands and measures what becomes of them: how late they come, how many a second, and
// whether each comes once and in its order.
//
// It speaks through the bus's own client, so that what it measures is what a service gets, its share of the work included. It sends what it
// is told to and ends by itself. Its memory does not grow with the number of messages: times go into histograms of fixed size (HdrHistogram),
// and of each publisher's numbers every subscriber remembers the last 16,384.
package load
