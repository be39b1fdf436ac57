-- Whether one decimal number without leading zeros is less than another.
local function less(a, b)
    if #a ~= #b then
        return #a < #b
    end
    return a < b
end

