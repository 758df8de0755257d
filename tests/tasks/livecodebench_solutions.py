# ruff: noqa: E501  (programs in a table)
"""Solutions for problems of the LiveCodeBench sample, by row: a right one and a wrong variant of it, written for these tests."""

from __future__ import annotations

STDIN: dict[int, tuple[str, str]] = {
    0: (
        "n = int(input())\na = list(map(int, input().split()))\nprint(a.index(sorted(a)[-2]) + 1)",
        "n = int(input())\na = list(map(int, input().split()))\nprint(a.index(sorted(a)[-2]))",
    ),
    23: (
        "x = input().strip()\nprint(x.rstrip('0').rstrip('.'))",
        "x = input().strip()\nprint(x[:-1])",
    ),
    58: ("print(input().replace('.', ''))", "print(input().strip('.') + '.')"),
    63: (
        "input()\nprint(max(map(int, input().split())) + max(map(int, input().split())))",
        "input()\nprint(max(a + b for a, b in zip(map(int, input().split()), map(int, input().split()))))",
    ),
    117: (
        "print('Yes' if input().strip().endswith('san') else 'No')",
        "print('Yes' if 'an' in input() else 'no')",
    ),
    122: (
        "import sys\ndata = sys.stdin.read().split()\ns = data[1]\nprint(sum(s[i:i + 3] == '#.#' for i in range(len(s))))",
        "import sys\ndata = sys.stdin.read().split()\nprint(data[1].count('#.#') + 1)",
    ),
    135: (
        "print('Yes' if sorted(input().strip()) == ['A', 'B', 'C'] else 'No')",
        "print('Yes' if set(input()) <= set('ABC') else 'No')",
    ),
    176: (
        "from math import isqrt\nn = int(input())\nm = isqrt(n)\n"
        "sieve = bytearray([1]) * (m + 1)\nsieve[:2] = b'\\0\\0'\n"
        "for i in range(2, isqrt(m) + 1):\n    if sieve[i]: sieve[i * i::i] = bytes(len(range(i * i, m + 1, i)))\n"
        "primes = [i for i in range(m + 1) if sieve[i]]\n"
        "answer = sum(p ** 8 <= n for p in primes)\n"
        "for i, p in enumerate(primes):\n    if p * p > m: break\n"
        "    for q in primes[i + 1:]:\n        if p * q > m: break\n        answer += 1\n"
        "print(answer)",
        "n = int(input())\nprint(sum(1 for i in range(1, int(n ** 0.5) + 1) if i % 6 == 0))",
    ),
}

FUNCTIONAL: dict[int, tuple[str, str]] = {
    106: (
        "class Solution:\n    def maxGoodNumber(self, nums: List[int]) -> int:\n"
        "        return max(int(''.join(bin(n)[2:] for n in p), 2) for p in permutations(nums))",
        "class Solution:\n    def maxGoodNumber(self, nums: List[int]) -> int:\n"
        "        return int(''.join(bin(n)[2:] for n in sorted(nums)), 2)",
    ),
    108: (
        "class Solution:\n    def minElement(self, nums: List[int]) -> int:\n        return min(sum(map(int, str(n))) for n in nums)",
        "class Solution:\n    def minElement(self, nums: List[int]) -> int:\n        return min(nums)",
    ),
    220: (
        "class Solution:\n    def numberOfSubstrings(self, s: str, k: int) -> int:\n        total, left = 0, 0\n        counts = Counter()\n"
        "        for c in s:\n            counts[c] += 1\n            while counts[c] == k:\n                counts[s[left]] -= 1\n"
        "                left += 1\n            total += left\n        return total",
        "class Solution:\n    def numberOfSubstrings(self, s: str, k: int) -> int:\n        return len(s) * k",
    ),
    245: (
        "class Solution:\n    def canAliceWin(self, n: int) -> bool:\n        take, moves = 10, 0\n"
        "        while n >= take > 0:\n            n -= take\n            take -= 1\n            moves += 1\n        return moves % 2 == 1",
        "class Solution:\n    def canAliceWin(self, n: int) -> bool:\n        return n % 2 == 1",
    ),
    249: (
        "class Solution:\n    def smallestNumber(self, n: int) -> int:\n        return (1 << n.bit_length()) - 1",
        "class Solution:\n    def smallestNumber(self, n: int) -> int:\n        return (1 << n.bit_length()) + 1",
    ),
    253: (
        "class Solution:\n    def maxSubarraySum(self, nums: List[int], k: int) -> int:\n        best, total = -inf, 0\n"
        "        low = [inf] * k\n        low[-1] = 0\n        for i, n in enumerate(nums):\n            total += n\n"
        "            best = max(best, total - low[i % k])\n            low[i % k] = min(low[i % k], total)\n        return best",
        "class Solution:\n    def maxSubarraySum(self, nums: List[int], k: int) -> int:\n        return sum(sorted(nums)[-k:])",
    ),
    268: (
        "class Solution:\n    def countSubarrays(self, nums: List[int]) -> int:\n"
        "        return sum(2 * (a + c) == b for a, b, c in zip(nums, nums[1:], nums[2:]))",
        "class Solution:\n    def countSubarrays(self, nums: List[int]) -> int:\n        return len(nums) - 2",
    ),
}
