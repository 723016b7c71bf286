/** Counts of responses and their time, in Prometheus' text format. */
export class Metrics {
  #responses = { "2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0 };
  #seconds = 0;

  /** One response with a status, after so many seconds. */
  count(status, seconds) {
    this.#responses[`${Math.floor(status / 100)}xx`] += 1;
    this.#seconds += seconds;
  }

  toString() {
    const counts = Object.entries(this.#responses);
    const total = counts.reduce((sum, [, count]) => sum + count, 0);
    return [
      "# TYPE links_responses_total counter",
      ...counts.map(([code, count]) => `links_responses_total{code="${code}"} ${count}`),
      "# TYPE links_response_seconds summary",
      `links_response_seconds_sum ${this.#seconds}`,
      `links_response_seconds_count ${total}`,
      "",
    ].join("\n");
  }
}
