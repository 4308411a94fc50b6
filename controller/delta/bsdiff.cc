#include "controller/delta/bsdiff.h"

#include <divsufsort.h>

#include <algorithm>
#include <cstring>

namespace sealift::controller {
namespace {

// Longer matches are found piece by piece: each comparison stays short in bytes that repeat without end.
constexpr std::ptrdiff_t kMaxMatch = 32 << 10;
// A match counts as another one when it is so much longer than what the last one still gives.
constexpr std::ptrdiff_t kGain = 8;
// So many steps that lead nowhere end a search (repetitive bytes).
constexpr int kMaxFutileSteps = 100;

std::ptrdiff_t CommonLength(ByteView a, ByteView b) {
  const auto limit = std::min({std::ssize(a), std::ssize(b), kMaxMatch});
  std::ptrdiff_t at = 0;
  for (; at + 8 <= limit; at += 8) {
    std::uint64_t x = 0;
    std::uint64_t y = 0;
    std::memcpy(&x, a.data() + at, 8);
    std::memcpy(&y, b.data() + at, 8);
    if (x != y) break;
  }
  while (at < limit && a[static_cast<std::size_t>(at)] == b[static_cast<std::size_t>(at)]) ++at;
  return at;
}

class Suffixes {
 public:
  explicit Suffixes(ByteView text) : text_(text), order_(text.size()) {
    if (!text.empty()) {
      SEALIFT_CHECK(divsufsort(text.data(), order_.data(), static_cast<saidx_t>(text.size())) == 0);
    }
  }

  struct Match {
    std::ptrdiff_t offset = 0;
    std::ptrdiff_t length = 0;
  };
  // The longest prefix of `wanted` in the text, up to kMaxMatch.
  Match Find(ByteView wanted) const {
    std::size_t low = 0;
    std::size_t high = order_.size();
    Match best;
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      const auto offset = static_cast<std::size_t>(order_[middle]);
      const ByteView suffix = text_.subspan(offset);
      const std::ptrdiff_t length = CommonLength(suffix, wanted);
      if (length > best.length) best = {.offset = static_cast<std::ptrdiff_t>(offset), .length = length};
      if (length == std::min(std::ssize(wanted), kMaxMatch)) return best;
      const auto at = static_cast<std::size_t>(length);
      if (at == suffix.size() || suffix[at] < wanted[at])
        low = middle + 1;
      else
        high = middle;
    }
    return best;
  }

 private:
  ByteView text_;
  std::vector<saidx_t> order_;
};

class Matcher {
 public:
  Matcher(ByteView old, ByteView fresh, std::uint64_t old_base, Differences& out)
      : old_(old), new_(fresh), base_(old_base), out_(out), suffixes_(old) {}

  void Run() {
    while (scan_ < NewSize()) {
      Advance();
      if (match_.length != score_ || scan_ == NewSize()) Emit();
    }
  }

 private:
  std::ptrdiff_t NewSize() const { return std::ssize(new_); }
  std::ptrdiff_t OldSize() const { return std::ssize(old_); }
  std::uint8_t Old(std::ptrdiff_t at) const { return old_[static_cast<std::size_t>(at)]; }
  std::uint8_t New(std::ptrdiff_t at) const { return new_[static_cast<std::size_t>(at)]; }
  // Whether going on with the last match would give this byte.
  bool GoesOn(std::ptrdiff_t at) const {
    const std::ptrdiff_t place = at + last_shift_;
    return place >= 0 && place < OldSize() && Old(place) == New(at);
  }

  // Finds the next place where another match does better than the last one goes on.
  void Advance() {
    score_ = 0;
    scan_ += match_.length;
    std::ptrdiff_t scored = scan_;
    int futile = 0;
    Suffixes::Match before = match_;
    std::ptrdiff_t score_before = 0;
    for (; scan_ < NewSize(); ++scan_) {
      before = match_;
      score_before = score_;
      match_ = suffixes_.Find(new_.subspan(static_cast<std::size_t>(scan_)));
      for (; scored < scan_ + match_.length; ++scored)
        if (GoesOn(scored)) ++score_;
      if ((match_.length == score_ && match_.length != 0) || match_.length > score_ + kGain) break;
      if (GoesOn(scan_)) --score_;
      const bool as_before = before.length - kGain <= match_.length && match_.length <= before.length &&
                             score_before - kGain <= score_ && score_ <= score_before &&
                             before.offset <= match_.offset && match_.offset <= before.offset + kGain &&
                             score_ <= match_.length && match_.length <= score_ + kGain;
      futile = as_before ? futile + 1 : 0;
      if (futile > kMaxFutileSteps) break;
    }
  }

  std::ptrdiff_t ForwardLength() const {
    std::ptrdiff_t equal = 0;
    std::ptrdiff_t best_equal = 0;
    std::ptrdiff_t best = 0;
    for (std::ptrdiff_t i = 0; last_scan_ + i < scan_ && last_offset_ + i < OldSize();) {
      if (Old(last_offset_ + i) == New(last_scan_ + i)) ++equal;
      ++i;
      if (equal * 2 - i > best_equal * 2 - best) {
        best_equal = equal;
        best = i;
      }
    }
    return best;
  }
  std::ptrdiff_t BackwardLength() const {
    if (scan_ >= NewSize()) return 0;
    std::ptrdiff_t equal = 0;
    std::ptrdiff_t best_equal = 0;
    std::ptrdiff_t best = 0;
    for (std::ptrdiff_t i = 1; scan_ >= last_scan_ + i && match_.offset >= i; ++i) {
      if (Old(match_.offset - i) == New(scan_ - i)) ++equal;
      if (equal * 2 - i > best_equal * 2 - best) {
        best_equal = equal;
        best = i;
      }
    }
    return best;
  }

  void Emit() {
    std::ptrdiff_t forward = ForwardLength();
    std::ptrdiff_t backward = BackwardLength();
    if (const std::ptrdiff_t overlap = last_scan_ + forward - (scan_ - backward); overlap > 0) {
      // Where both reach, cut at the best place.
      std::ptrdiff_t gain = 0;
      std::ptrdiff_t best = 0;
      std::ptrdiff_t cut = 0;
      for (std::ptrdiff_t i = 0; i < overlap; ++i) {
        if (New(last_scan_ + forward - overlap + i) == Old(last_offset_ + forward - overlap + i)) ++gain;
        if (New(scan_ - backward + i) == Old(match_.offset - backward + i)) --gain;
        if (gain > best) {
          best = gain;
          cut = i + 1;
        }
      }
      forward += cut - overlap;
      backward -= cut;
    }
    const std::ptrdiff_t fresh = scan_ - backward - (last_scan_ + forward);
    if (forward + fresh > 0) {
      out_.entries.push_back({.old_offset = base_ + static_cast<std::uint64_t>(last_offset_),
                              .same = static_cast<std::uint64_t>(forward),
                              .fresh = static_cast<std::uint64_t>(fresh)});
      for (std::ptrdiff_t i = 0; i < forward; ++i)
        out_.difference.push_back(static_cast<std::uint8_t>(New(last_scan_ + i) - Old(last_offset_ + i)));
      Append(out_.extra,
             new_.subspan(static_cast<std::size_t>(last_scan_ + forward), static_cast<std::size_t>(fresh)));
    }
    last_scan_ = scan_ - backward;
    last_offset_ = match_.offset - backward;
    last_shift_ = match_.offset - scan_;
  }

  const ByteView old_;
  const ByteView new_;
  const std::uint64_t base_;
  Differences& out_;
  const Suffixes suffixes_;
  std::ptrdiff_t scan_ = 0;
  Suffixes::Match match_;
  std::ptrdiff_t score_ = 0;
  std::ptrdiff_t last_scan_ = 0;
  std::ptrdiff_t last_offset_ = 0;
  std::ptrdiff_t last_shift_ = 0;
};

}  // namespace

void FindDifferences(ByteView old, ByteView fresh, std::uint64_t old_base, Differences& out) {
  Matcher(old, fresh, old_base, out).Run();
}

}  // namespace sealift::controller
